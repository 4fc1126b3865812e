"""A body is whole or it is refused, and a header from outside is sane or it is ignored."""

import gzip
import math
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datafile_sidecar.core.answer import Body, BodyError, clean_validator, retry_after_s
from datafile_sidecar.core.datafile import MAX_BYTES

NOW_S = 1_790_000_000.0


def pieces_of(data: bytes, sizes: list[int]) -> list[bytes]:
    """The data, cut at these sizes in turn, with the rest as the last piece."""
    pieces = []
    for size in sizes:
        pieces.append(data[:size])
        data = data[size:]
    return [*pieces, data]


@given(st.binary(max_size=5000), st.lists(st.integers(0, 700), max_size=20), st.sampled_from(["", "gzip", " X-GZIP "]))
def test_a_body_is_the_same_however_it_was_cut(data: bytes, sizes: list[int], coding: str) -> None:
    """The user gets the bytes that were served, whatever packets they came in."""
    body = Body(coding)
    for piece in pieces_of(gzip.compress(data) if coding else data, sizes):
        body.feed(piece)
    assert body.complete() == data


@given(st.binary(min_size=1, max_size=5000), st.data())
def test_no_beginning_of_a_gzip_stream_passes(data: bytes, draw: st.DataObject) -> None:
    """The user never gets the first part of a datafile, wherever the stream broke off."""
    packed = gzip.compress(data)
    body = Body("gzip")
    body.feed(packed[: draw.draw(st.integers(0, len(packed) - 1))])
    with pytest.raises(BodyError) as caught:
        body.complete()
    assert caught.value.outcome == "truncated"


@given(st.binary(min_size=1, max_size=300), st.binary(max_size=50), st.integers(0, 60))
def test_nothing_may_follow_a_gzip_stream(garbage: bytes, data: bytes, size: int) -> None:
    """The user is safe from a second stream or garbage behind the datafile, in the same packet or a later one."""
    packed = gzip.compress(data)
    body = Body("gzip")
    with pytest.raises(BodyError) as caught:  # noqa: PT012 - any piece may be the one
        for piece in pieces_of(packed + garbage, [size, max(len(packed) - size, 0)]):
            body.feed(piece)
    assert caught.value.outcome == "protocol_error"


@given(st.binary(max_size=400))
def test_bytes_that_are_no_gzip_raise_only_our_error(data: bytes) -> None:
    """The user's loop survives whatever calls itself gzip."""
    body = Body("gzip")
    with pytest.raises(BodyError):  # noqa: PT012 - either step may find it out
        body.feed(b"\x1f\x8b" + data)
        body.complete()


@pytest.mark.parametrize("coding", ["br", "deflate", "zstd", "gzip, gzip", "gzip,br", "\x00"])
def test_other_codings_are_refused(coding: str) -> None:
    """The user reads that upstream used a coding nobody asked for, instead of getting its bytes."""
    with pytest.raises(BodyError, match="coding"):
        Body(coding)


def test_the_cap_holds_before_and_after_decompression() -> None:
    """The user's largest datafile passes, one byte more does not: announced, on the wire, or unpacked."""
    Body("", MAX_BYTES)
    with pytest.raises(BodyError):
        Body("", MAX_BYTES + 1)

    plain = Body()
    plain.feed(bytes(MAX_BYTES))
    assert len(plain.complete()) == MAX_BYTES
    with pytest.raises(BodyError) as caught:
        plain.feed(b"!")
    assert caught.value.outcome == "too_large"

    for size in (MAX_BYTES, MAX_BYTES + 1):
        packed = Body("gzip")
        if size == MAX_BYTES:
            packed.feed(gzip.compress(bytes(size)))
            assert len(packed.complete()) == size
        else:
            with pytest.raises(BodyError, match="8 MiB"):
                packed.feed(gzip.compress(bytes(size)))


def test_a_gzip_stream_of_nothing_counts_on_the_wire() -> None:
    """The user is safe from a stream that unpacks to nothing and never ends."""
    body = Body("gzip")
    body.feed(gzip.compress(b"")[:10])
    empty_blocks = b"\x00\x00\x00\xff\xff" * 10_000
    with pytest.raises(BodyError) as caught:  # noqa: PT012 - the loop is the point
        for _ in range(MAX_BYTES // len(empty_blocks) + 1):
            body.feed(empty_blocks)
    assert caught.value.outcome == "too_large"


def test_a_wrong_checksum_is_found_out() -> None:
    """The user never gets bytes that were damaged on the way."""
    packed = bytearray(gzip.compress(b"flags" * 100))
    packed[-8] ^= 1
    with pytest.raises(BodyError) as caught:
        Body("gzip").feed(bytes(packed))
    assert isinstance(caught.value.__cause__, zlib.error)


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
