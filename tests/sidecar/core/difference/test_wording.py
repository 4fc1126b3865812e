"""How the words of a difference are bounded and escaped."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from datafile_sidecar.core.difference import summary
from datafile_sidecar.core.difference.wording import listed, named, percent, valued

_LINES = st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=600), max_size=20)


@given(_LINES, st.integers(2, 8), st.integers(100, 1000))
def test_summary(lines: list[str], max_lines: int, max_bytes: int) -> None:
    """A summary keeps its bounds, begins with the first line, and says how many lines it leaves out."""
    short = summary(lines, max_lines=max_lines, max_bytes=max_bytes)
    assert len(short) <= max_lines
    assert sum(len(msgspec.json.encode(line)) for line in short) <= max_bytes
    assert bool(short) == bool(lines)
    if short == lines:
        return
    if short[-1].startswith("and ") and len(short) > 1:
        left_out = len(lines) - len(short) + 1
        assert short[-1] == f"and {left_out} more"
    assert short[0] == lines[0] or (short[0].endswith("…") and lines[0].startswith(short[0][:-1]))


def test_a_few_lines_are_kept() -> None:
    """What fits is shown whole."""
    lines = ["a: off for everyone", "b: removed"]
    assert summary(lines, max_lines=5, max_bytes=400) == lines
    assert summary(lines * 3, max_lines=5, max_bytes=400) == [*lines * 2, "and 2 more"]


@given(st.text())
def test_names(name: str) -> None:
    """A name is one line of printable text, and is in quotes where it could be taken for the words around it."""
    shown = named(name)
    assert shown.isprintable()
    assert len(shown) <= 62
    assert shown.startswith('"') or not set(shown) & set(' :,;"→')
    assert '"' not in shown.strip('"')


def test_values() -> None:
    """Values that are no text have words, and long ones are cut."""
    assert [valued(one) for one in (None, True, False, "a b", 1.5)] == ["not set", "on", "off", '"a b"', "1.5"]
    assert len(valued("x" * 1000)) == 42
    assert percent(1) == "0.01 %"
    assert listed(["a", "b c", "d", "e"]) == 'a, "b c", d and 1 more'
