"""Odd datafiles that the SDK takes: comparing them never fails, whatever stands where something else belongs."""

import copy
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datafile_sidecar.core import datafile
from datafile_sidecar.core.datafile import InvalidDatafileError
from datafile_sidecar.core.difference import difference
from tests.datafiles import hostile, minimal, realistic

_BASE = json.loads(realistic(26, 42))
_ODD: tuple[Any, ...] = (None, True, 0, -1, 1e999, 2**70, "", "a1", "\ud800", [], ["a"], [[]], [{}], {}, {"id": []})


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, child in children for place in _places(child, (*path, key)))]


_PLACES = [place for place in _places(_BASE) if place]


@settings(max_examples=300, suppress_health_check=[HealthCheck.filter_too_much], deadline=None)
@given(st.lists(st.tuples(st.sampled_from(_PLACES), st.sampled_from(_ODD)), min_size=1, max_size=3))
def test_odd_values(changes: list[tuple[tuple[Any, ...], Any]]) -> None:
    """Whatever the sidecar publishes is compared with what was there before, in both directions."""
    odd = copy.deepcopy(_BASE)
    for place, value in changes:
        parent: Any = odd
        try:
            for one in place[:-1]:
                parent = parent[one]
            parent[place[-1]] = value
        except (TypeError, KeyError, IndexError):
            continue
    before, after = json.dumps(_BASE).encode(), json.dumps(odd).replace("Infinity", "1e999").encode()
    try:
        datafile.parse(after, "KEY1")
    except InvalidDatafileError:
        return
    for lines in (difference(before, after), difference(after, before)):
        assert all(line.isprintable() and len(line) < 4000 for line in lines)
    assert difference(after, after + b" ") == []


@pytest.mark.parametrize(
    "kind", ["empty objects in an unknown field", "small objects", "backslashes", "escaped quotes"]
)
def test_large_unknown_fields(kind: str) -> None:
    """A datafile that is stuffed with what nobody reads has one line for that, and no more."""
    stuffed = hostile(kind, 500_000)
    assert difference(minimal(42), stuffed) == ["changed in x"]
    assert difference(stuffed, minimal(42)) == ["changed in x"]
