"""Decoding list by list gives the same result as one decoder."""

import json
from typing import Any

import msgspec
import pytest

from datafile_sidecar.core.datafile import lazy_lists, schema
from datafile_sidecar.core.datafile.errors import InvalidDatafileError
from tests.datafiles import realistic

BODY = json.dumps(json.loads(realistic(30, 43))).encode()
LONG = {
    "experiments": schema.Experiment,
    "featureFlags": schema.FeatureFlag,
    "rollouts": schema.Rollout,
    "typedAudiences": schema.TypedAudience,
}


@pytest.mark.parametrize(("name", "entry"), LONG.items())
def test_every_entry_is_there_each_time(name: str, entry: type[Any]) -> None:
    """Nothing of a datafile escapes validation because it is decoded in pieces, however often they are iterated."""
    outline = msgspec.json.decode(BODY, type=schema.Outline)
    field = next(one.name for one in msgspec.structs.fields(schema.Outline) if one.encode_name == name)
    expected = msgspec.json.decode(json.dumps(json.loads(BODY)[name]), type=list[entry])  # type: ignore[valid-type]
    assert len(expected) > 3
    for _ in range(2):
        entries = list(getattr(lazy_lists, field)(getattr(outline, field)))
        assert [msgspec.json.encode(one) for one in entries] == [msgspec.json.encode(one) for one in expected]


@pytest.mark.parametrize("name", LONG)
def test_the_path_of_a_fault_is_named(name: str) -> None:
    """The log names the entry and the list that are wrong."""
    root = json.loads(BODY)
    root[name][2] = 5
    with pytest.raises(InvalidDatafileError, match=rf"{name}\[2\]: expected an object, got a number"):
        [list(entries) for entries in _lists(root)]
    root[name] = {}
    with pytest.raises(InvalidDatafileError, match=rf"{name}: expected a list, got an object"):
        [list(entries) for entries in _lists(root)]


def _lists(root: dict[str, Any]) -> list[Any]:
    outline = msgspec.json.decode(json.dumps(root), type=schema.Outline)
    return [
        lazy_lists.experiments(outline.experiments),
        lazy_lists.feature_flags(outline.feature_flags),
        lazy_lists.rollouts(outline.rollouts),
        lazy_lists.typed_audiences(outline.typed_audiences),
    ]
