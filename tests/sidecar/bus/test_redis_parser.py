"""The parser of Redis' protocol: what is long is not held, and what is not Redis is named."""

import asyncio
import tracemalloc
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from redis.exceptions import ConnectionError as LostConnectionError
from redis.exceptions import InvalidResponse, ResponseError

from datafile_sidecar.bus.redis_parser import BoundedParser
from datafile_sidecar.bus.traffic import Traffic
from datafile_sidecar.core.bus_message import MAX_MESSAGE_BYTES
from datafile_sidecar.core.bus_record import MAX_VALUE_BYTES


def parser_of(*chunks: bytes, ended: bool = True) -> tuple[BoundedParser, asyncio.StreamReader]:
    """A parser on a connection on which this has come in."""
    stream = asyncio.StreamReader()
    for chunk in chunks:
        stream.feed_data(chunk)
    if ended:
        stream.feed_eof()
    parser = BoundedParser(Traffic(), 65536)
    parser.on_connect(SimpleNamespace(_reader=stream, _writer=Mock()))
    return parser, stream


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"+OK\r\n", b"OK"),
        (b":12\r\n", 12),
        (b"$-1\r\n", None),
        (b"*-1\r\n", None),
        (b"$0\r\n\r\n", b""),
        (b"$4\r\na\r\nb\r\n", b"a\r\nb"),
        (b"*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$2\r\n{}\r\n", [b"message", b"news", b"{}"]),
        (b"*2\r\n+OK\r\n:1\r\n", [b"OK", 1]),
        (b"*0\r\n", []),
        (b"*2\r\n$1\r\n0\r\n*2\r\n$3\r\npod\r\n$2\r\n{}\r\n", [b"0", [b"pod", b"{}"]]),
        (b"*2\r\n$1\r\n0\r\n*1\r\n$1030\r\n" + b"x" * 1030 + b"\r\n", [b"0", [b"x" * 1025]]),
    ],
)
async def test_replies(answer: bytes, expected: object) -> None:
    """Each kind of reply is read to its end, however it is cut into packets."""
    parser, stream = parser_of(answer, b"+next\r\n")
    assert await parser.read_response() == expected
    assert await parser.read_response() == b"next"
    assert stream.at_eof()
    parser, stream = parser_of(ended=False)
    reading = asyncio.create_task(parser.read_response())
    for byte in answer:
        stream.feed_data(bytes([byte]))
        await asyncio.sleep(0)
    assert await reading == expected


async def test_errors_are_returned_in_their_place() -> None:
    """Also one in a list, as a transaction has it. One that makes the connection useless is raised."""
    parser, _ = parser_of(b"*2\r\n+OK\r\n-OOM no room\r\n", b"-LOADING not yet\r\n")
    ok, error = await parser.read_response()
    assert (ok, type(error).__name__) == (b"OK", "OutOfMemoryError")
    assert isinstance(error, ResponseError)
    with pytest.raises(LostConnectionError, match="not yet"):
        await parser.read_response()


@pytest.mark.parametrize(
    ("before", "after", "kept"), [(b"*1\r\n", b"", MAX_MESSAGE_BYTES + 1), (b"", b"", MAX_VALUE_BYTES + 1)]
)
async def test_long_strings_are_skipped(before: bytes, after: bytes, kept: int) -> None:
    """64 MiB in a message or in a value: at most what a valid one can have is held, and the next reply is read."""
    parser, stream = parser_of(ended=False)
    mib = b"x" * 2**20
    tracemalloc.start()
    try:
        reading = asyncio.create_task(parser.read_response())
        stream.feed_data(before + b"$%d\r\n" % (64 * len(mib)))
        for _ in range(64):
            stream.feed_data(mib)
            while stream._buffer:  # type: ignore[attr-defined]
                await asyncio.sleep(0)
        stream.feed_data(b"\r\n+next\r\n")
        reply = await reading
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    [text] = reply if before else [reply]
    assert len(text) == kept
    assert peak < 2 * kept + 8 * len(mib)
    assert await parser.read_response() == b"next"


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/html\r\n\r\n<html>",
        b"<html>no line",
        b"$x\r\n",
        b"$-2\r\n",
        b"$99999999999999999999999999\r\n",
        b"*1000000000\r\n",
        b"*1\r\n*1\r\n+nested\r\n",
        b"+" + b"a" * 2**18,
        b"\r\n",
    ],
)
async def test_what_is_not_redis_is_refused(answer: bytes) -> None:
    """It is an error at once, whose text shows the beginning of what came."""
    parser, _ = parser_of(answer)
    with pytest.raises(InvalidResponse) as caught:
        await parser.read_response()
    if answer.startswith((b"H", b"<")):
        assert answer[:10].decode() in str(caught.value)


@pytest.mark.parametrize("answer", [b"", b"+O", b"$10\r\nabc", b"$3\r\nabc", b"*2\r\n+OK\r\n"])
async def test_a_connection_that_ends_is_lost(answer: bytes) -> None:
    """In the middle of a reply or before one."""
    parser, _ = parser_of(answer)
    with pytest.raises(LostConnectionError):
        await parser.read_response()


async def test_a_closed_connection_is_lost() -> None:
    """Nothing can be read from it."""
    parser, _ = parser_of(b"+OK\r\n")
    assert not await parser.can_read()
    parser.on_disconnect()
    with pytest.raises(LostConnectionError):
        await parser.read_response()
