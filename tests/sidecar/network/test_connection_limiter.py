"""The limits on connections, over real sockets."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from datafile_sidecar.network.connection_limiter import MAX_HEAD_BYTES, ConnectionLimiter

HEAD = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
LIMIT = 4


@pytest.fixture
def dropped() -> list[None]:
    """One for each connection that was dropped at the limit."""
    return []


@pytest.fixture
async def port(dropped: list[None]) -> AsyncIterator[int]:
    async def answer(request: web.BaseRequest) -> web.Response:
        await request.read()
        return web.Response(text="ok")

    http = web.Server(answer, access_log=None)
    server = await asyncio.get_running_loop().create_server(
        ConnectionLimiter(http, LIMIT, lambda: dropped.append(None)), "127.0.0.1", 0
    )
    yield server.sockets[0].getsockname()[1]
    server.close()
    await http.shutdown(0.1)


async def ask(port: int, *parts: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for part in parts:
        writer.write(part)
        await asyncio.sleep(0.01)
    async with asyncio.timeout(3):
        try:
            return await reader.read()
        except (ConnectionResetError, BrokenPipeError):
            return b""
        finally:
            writer.transport.abort()


async def test_the_oldest_connection_is_dropped(port: int, dropped: list[None]) -> None:
    """When silent connections fill the limit, a new one gets in, and the oldest is dropped and counted."""
    silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(LIMIT)]
    reading = [asyncio.create_task(reader.read()) for reader, _ in silent]
    assert (await ask(port, HEAD + b"\r\n")).startswith(b"HTTP/1.1 200")
    await asyncio.sleep(0.05)
    assert [one.done() for one in reading] == [True] + [False] * (LIMIT - 1)
    assert len(dropped) == 1
    for _, writer in silent:
        writer.transport.abort()
    await asyncio.gather(*reading, return_exceptions=True)


async def test_closed_connections_do_not_count(port: int, dropped: list[None]) -> None:
    """Any number of requests one after another causes no drop."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(3 * LIMIT):
        assert (await ask(port, HEAD + b"\r\n")).startswith(b"HTTP/1.1 200")
    writer.write(HEAD + b"\r\n")
    assert (await reader.read(12)) == b"HTTP/1.1 200"
    writer.transport.abort()
    assert dropped == []


async def test_a_head_has_a_limit(port: int) -> None:
    """Many header lines, each of them short enough, are refused when they are too large together."""
    line = b"X-Long: " + b"a" * 7000 + b"\r\n"
    assert (await ask(port, HEAD + line * (MAX_HEAD_BYTES // len(line) + 1))).startswith(b"HTTP/1.1 431")
    assert not (await ask(port, HEAD, *[line] * 10, b"\r\n")).startswith(b"HTTP/1.1 200")
    assert (await ask(port, HEAD, line, line, b"\r", b"\n")).startswith(b"HTTP/1.1 200")


async def test_a_body_does_not_count_as_head(port: int) -> None:
    """A body may be larger than a head, wherever packets end."""
    body = b"x" * (MAX_HEAD_BYTES + 1)
    head = HEAD + b"Content-Length: %d\r\n" % len(body)
    assert (await ask(port, head + b"\r\n" + body)).startswith(b"HTTP/1.1 200")
    assert (await ask(port, head + b"\r", b"\n", body)).startswith(b"HTTP/1.1 200")
