"""Bytes for a target: its good examples with a few edits, JSON of any shape, and noise."""

import copy
import json
from typing import Any

from hypothesis import strategies as st

from tests.fuzz.targets import Target

_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def bytes_for(target: Target) -> st.SearchStrategy[bytes]:
    """A strategy that shrinks to short inputs with few edits."""
    noise = _VALUES.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=200)
    return _edited(target) | _replaced(target) | noise


@st.composite
def _edited(draw: st.DrawFn, target: Target) -> bytes:
    text = draw(st.sampled_from(target.seeds))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(text)))
        removed = draw(st.sampled_from((0, 1, 2, 8, 64)))
        new = draw(
            st.sampled_from(target.pieces) | st.binary(max_size=4) | _VALUES.map(lambda one: json.dumps(one).encode())
        )
        text = text[:start] + new + text[start + removed :]
    return text


@st.composite
def _replaced(draw: st.DrawFn, target: Target) -> bytes:
    """JSON with other values in some places, for faults that only show in what is well formed."""
    roots = [root for seed in target.seeds if isinstance(root := _json(seed), dict)]
    if not roots:
        return draw(_edited(target))
    root = copy.deepcopy(draw(st.sampled_from(roots)))
    for _ in range(draw(st.integers(1, 3))):
        here: Any = root
        while isinstance(here, (dict, list)) and here:
            key = draw(st.sampled_from(list(here) if isinstance(here, dict) else range(len(here))))
            if not (isinstance(here[key], (dict, list)) and here[key]) or draw(st.integers(0, 5)) == 0:
                here[key] = draw(_VALUES)
                break
            here = here[key]
    return json.dumps(root).encode()


def _json(text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None
