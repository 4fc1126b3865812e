"""Any bytes at all may come back: the user gets the whole datafile or an error with a name, never anything between."""

import asyncio
import gzip

from hypothesis import given, settings
from hypothesis import strategies as st

from datafile_sidecar.upstream import OUTCOMES, Fetched, FetchError, Upstream
from tests.sidecar.wire import DATAFILE, KEY, head, ok, wire

PACKED = gzip.compress(DATAFILE, mtime=0)
CHUNKED = head(200, "Transfer-Encoding: chunked", "Content-Encoding: gzip") + (
    b"%x\r\n%s\r\n0\r\n\r\n" % (len(PACKED), PACKED)
)
WHOLE = st.sampled_from([ok(), ok(compress=True), CHUNKED])


def outcome(answer: bytes) -> str | bytes:
    """What one fetch makes of these bytes: the body, or the name of the error; anything else fails the test."""

    async def ask() -> str | bytes:
        async with wire(answer) as cdn, Upstream(template=cdn.template, timeout_s=2) as upstream:
            try:
                result = await upstream.fetch(upstream.url(KEY), sdk_key=KEY)
            except FetchError as error:
                return error.outcome
            assert isinstance(result, Fetched)
            return result.body

    return asyncio.run(ask())


@settings(max_examples=60, deadline=None)
@given(WHOLE, st.data())
def test_an_answer_that_breaks_off_anywhere_is_noticed(answer: bytes, draw: st.DataObject) -> None:
    """The user never gets a part of a datafile, wherever the connection ended: in the head, the framing or the body."""
    cut = answer[: draw.draw(st.integers(0, len(answer) - 1))]
    assert outcome(cut) in {"truncated", "unreachable", "protocol_error"}


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([ok(compress=True), CHUNKED]), st.data())
def test_a_damaged_gzip_body_is_never_taken_for_another_one(answer: bytes, draw: st.DataObject) -> None:
    """The user gets the bytes that were served or an error, whichever byte of the body a broken cache changed."""
    start = answer.index(PACKED)
    position = draw.draw(st.integers(start, start + len(PACKED) - 1))
    damaged = answer[:position] + bytes([draw.draw(st.integers(0, 255))]) + answer[position + 1 :]
    result = outcome(damaged)
    assert result == DATAFILE or result in {"truncated", "protocol_error", "too_large"}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.binary(max_size=60) | st.sampled_from([b"HTTP/1.1 200 OK\r\n", b"\r\n", b": ", b"Location", b"304"]))
)
def test_noise_is_an_error_with_a_name(noise: list[bytes]) -> None:
    """The user's loop survives whatever answers at this port."""
    result = outcome(b"".join(noise))
    assert isinstance(result, bytes) or result in OUTCOMES
