"""A header from outside is valid or it is ignored."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datafile_sidecar.core.http_headers import clean_validator, retry_after_s

NOW_S = 1_790_000_000.0


@pytest.mark.parametrize(
    ("value", "answered", "expected"),
    [
        (None, None, None),
        ("", None, None),
        ("0", None, 0.0),
        ("120", None, 120.0),
        (" 120 ", None, 120.0),
        ("601", None, 600.0),
        ("999999999999999", None, 600.0),
        ("-5", None, None),
        ("+5", None, None),
        ("1.5", None, None),
        ("1e309", None, None),
        ("abc", None, None),
        ("\N{ARABIC-INDIC DIGIT FIVE}", None, None),
        ("9" * 5000, None, None),
        ("Wed, 21 Oct 2099 07:28:00 GMT", None, 600.0),
        ("Wed, 21 Oct 1999 07:28:00 GMT", None, 0.0),
        ("Mon, 21 Sep 2026 14:14:20 GMT", None, 60.0),
        ("Mon, 21 Sep 2026 14:14:20 -0000", None, 60.0),
        ("Wed, 21 Oct 2015 07:28:10 GMT", "Wed, 21 Oct 2015 07:28:00 GMT", 10.0),
        ("Mon, 21 Sep 2026 14:14:20 GMT", "garbage", 60.0),
        ("Wed, 99 Oct 2015 99:99:99 GMT", None, None),
        ("Wed, 21 Oct 99999999999999999999999 07:28:00 GMT", None, None),
        ("Wed, 21 Oct 2099 07:28:00 +99999999999999999999", None, None),
    ],
)
def test_retry_after_is_sane_or_ignored(value: str | None, answered: str | None, expected: float | None) -> None:
    """The user's sidecar rests as long as it was asked to, at most ten minutes, and never by garbage or a wrong clock."""
    assert retry_after_s(value, answered, NOW_S) == expected


@given(st.text() | st.from_regex(r"[A-Z][a-z]{2}, [0-9]{1,6} [A-Z][a-z]{2} [0-9]{1,9} .{0,12}"), st.text())
def test_no_header_makes_the_pause_senseless(value: str, answered: str) -> None:
    """The user's loop never crashes or sleeps for ever over a header."""
    wait_s = retry_after_s(value, answered, NOW_S)
    assert wait_s is None or (0 <= wait_s <= 600 and math.isfinite(wait_s))


@pytest.mark.parametrize("value", ['"abc"', 'W/"abc-43"', "abc", "Wed, 21 Oct 2015 07:28:00 GMT", "a" * 256])
def test_a_validator_is_kept_as_it_came(value: str) -> None:
    """The user's next poll can be answered with "not modified"."""
    assert clean_validator(value) == value


@pytest.mark.parametrize(
    "value", [None, "", "a\r\nX: 1", "\x00", "\x7f", "\N{LATIN SMALL LETTER E}\N{SNOWMAN}", "\udce9", "a" * 257]
)
def test_a_validator_that_cannot_be_sent_back_is_dropped(value: str | None) -> None:
    """The user's later polls are not broken by a tag that no header can carry."""
    assert clean_validator(value) is None
