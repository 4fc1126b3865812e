"""A body is complete or it is refused, whatever arrives."""

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datafile_sidecar.core.datafile import MAX_BYTES
from datafile_sidecar.upstream.body import BodyError, BodyReader


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
    body = BodyReader(coding)
    for piece in pieces_of(gzip.compress(data) if coding else data, sizes):
        body.feed(piece)
    assert body.complete() == data


@given(st.binary(min_size=1, max_size=5000), st.data())
def test_no_beginning_of_a_gzip_stream_passes(data: bytes, draw: st.DataObject) -> None:
    """The user never gets the first part of a datafile, wherever the stream broke off."""
    packed = gzip.compress(data)
    body = BodyReader("gzip")
    body.feed(packed[: draw.draw(st.integers(0, len(packed) - 1))])
    with pytest.raises(BodyError) as caught:
        body.complete()
    assert caught.value.outcome == "truncated"


@given(st.binary(min_size=1, max_size=300), st.binary(max_size=50), st.integers(0, 60))
def test_nothing_may_follow_a_gzip_stream(garbage: bytes, data: bytes, size: int) -> None:
    """The user is safe from a second stream or garbage behind the datafile, in the same packet or a later one."""
    packed = gzip.compress(data)
    body = BodyReader("gzip")
    with pytest.raises(BodyError) as caught:  # noqa: PT012 - any piece may be the one
        for piece in pieces_of(packed + garbage, [size, max(len(packed) - size, 0)]):
            body.feed(piece)
    assert caught.value.outcome == "protocol_error"


@given(st.binary(max_size=400))
def test_bytes_that_are_no_gzip_raise_only_our_error(data: bytes) -> None:
    """The user's loop survives whatever calls itself gzip."""
    body = BodyReader("gzip")
    with pytest.raises(BodyError):  # noqa: PT012 - either step may find it out
        body.feed(b"\x1f\x8b" + data)
        body.complete()


@pytest.mark.parametrize("coding", ["br", "deflate", "zstd", "gzip, gzip", "gzip,br", "\x00"])
def test_other_codings_are_refused(coding: str) -> None:
    """The user reads that upstream used a coding that was not requested, instead of getting its bytes."""
    with pytest.raises(BodyError, match="coding"):
        BodyReader(coding)


def test_the_cap_holds_before_and_after_decompression() -> None:
    """The user's largest datafile passes, one byte more does not: announced, on the wire, or unpacked."""
    BodyReader("", MAX_BYTES)
    with pytest.raises(BodyError):
        BodyReader("", MAX_BYTES + 1)

    plain = BodyReader()
    plain.feed(bytes(MAX_BYTES))
    assert len(plain.complete()) == MAX_BYTES
    with pytest.raises(BodyError) as caught:
        plain.feed(b"!")
    assert caught.value.outcome == "too_large"

    for size in (MAX_BYTES, MAX_BYTES + 1):
        packed = BodyReader("gzip")
        if size == MAX_BYTES:
            packed.feed(gzip.compress(bytes(size)))
            assert len(packed.complete()) == size
        else:
            with pytest.raises(BodyError, match="8 MiB"):
                packed.feed(gzip.compress(bytes(size)))


def test_a_gzip_stream_of_nothing_counts_on_the_wire() -> None:
    """The user is safe from a stream that unpacks to nothing and never ends."""
    body = BodyReader("gzip")
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
        BodyReader("gzip").feed(bytes(packed))
    assert isinstance(caught.value.__cause__, zlib.error)
