"""Text from outside, made safe to show."""

from hypothesis import given
from hypothesis import strategies as st

from datafile_sidecar.core.display_text import printable, shorten


@given(st.text())
def test_printable(text: str) -> None:
    """Whatever the text holds, what is shown can be printed and encoded, and printable text is left alone."""
    shown = printable(text)
    assert shown.isprintable()
    shown.encode()
    assert printable(shown) == shown
    assert not text.isprintable() or shown == text


def test_what_is_escaped() -> None:
    """Line ends, terminal commands and lone surrogates show as escapes."""
    assert printable("a\nb\x1b[31m\u202e\ud800é") == "a\\nb\\x1b[31m\\u202e\\ud800é"


@given(st.text(), st.integers(1, 20))
def test_shorten(text: str, limit: int) -> None:
    """No text is longer than the limit, and one that fits is left alone."""
    short = shorten(text, limit)
    assert len(short) <= limit
    assert short == text if len(text) <= limit else short == text[: limit - 1] + "…"
