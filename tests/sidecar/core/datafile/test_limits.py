"""Limits are found whatever strings contain, and hostile bodies cost little memory."""

import tracemalloc
from typing import Any

import pytest

from datafile_sidecar.core.datafile import MAX_BYTES, parse
from tests.datafiles import HOSTILE, hostile
from tests.sidecar.core.datafile.sdk_verdict import EMPTY, reason_against, sdk_takes, with_change

# Texts that look like the end of a string, or like nesting, to a reader that does not keep strings and escapes apart.
TEXTS = [
    "[" * 200,
    "{" * 200,
    "]" * 200,
    '"',
    '"' + "[" * 200,
    "\\",
    "\\\\",
    '\\"' + "{" * 200,
    "\n",
    "a,b",
    "[" * 70_000,
]


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: ascii(text[:5]))
def test_brackets_in_texts_are_no_nesting(text: str) -> None:
    """What a team writes into names and variables, code and JSON included, never blocks its datafile."""
    body = with_change(EMPTY, {"note": [text, [text, "x", text]], "more": {text: text}})
    assert sdk_takes(body)
    parse(body, "KEY1")


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: ascii(text[:5]))
def test_nesting_is_found_between_texts(text: str) -> None:
    """A datafile that would exhaust some app's stack is refused, whatever texts hide its depth."""
    tree: list[Any] = []
    for _ in range(99):
        tree = [text, tree] if len(text) < 1000 else [tree]
    assert reason_against(with_change(EMPTY, {"note": text, "tree": tree})) == "nested more than 100 deep"
    assert reason_against(with_change(EMPTY, {"note": text, "tree": tree[-1]})) == ""


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_body_costs_no_multiple_of_its_size(name: str) -> None:
    """Eight megabytes of garbage can't get the sidecar killed for its memory, nor reach the app."""
    body = hostile(name, MAX_BYTES)
    tracemalloc.start()
    try:
        reason = reason_against(body)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * MAX_BYTES
    assert bool(reason) == (name not in ("backslashes", "escaped quotes"))
