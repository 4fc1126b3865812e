"""The limits on connections, over real sockets."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from aiohttp import web

from datafile_sidecar.network import connection_limiter
from datafile_sidecar.network.connection_limiter import MAX_HEAD_BYTES
from datafile_sidecar.network.http import read_body
from datafile_sidecar.network.server import bind, serving

GET = b"GET / HTTP/1.1\r\nHost: x\r\n"
HEAD = GET + b"Connection: close\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
LINE = b"X-Long: " + b"a" * 7000 + b"\r\n"
LINES = LINE * (MAX_HEAD_BYTES // len(LINE) + 1)
LIMIT = 4
MAX_BODY_BYTES = 64 * 1024
FEW_BYTES = 2 * MAX_HEAD_BYTES


@dataclass
class Port:
    """A served port; `dropped` has one entry for each connection that was dropped at a limit."""

    number: int = 0
    dropped: list[None] = field(default_factory=list)
    downloads: int = 0
    is_slow: asyncio.Event = field(default_factory=asyncio.Event)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)


@pytest.fixture
async def port() -> AsyncIterator[Port]:
    async def answer(request: web.Request) -> web.Response:
        body = await read_body(request, MAX_BODY_BYTES)
        return web.Response(status=413) if body is None else web.Response(text=f"{len(body)} bytes")

    async def download(_: web.Request) -> web.Response:
        served.downloads += 1
        return web.Response(body=b"x" * 20_000_000)

    async def slow(_: web.Request) -> web.Response:
        served.is_slow.set()
        await served.go_on.wait()
        return web.Response(text="slow")

    app, served, listener = web.Application(), Port(), bind("127.0.0.1", 0, "")
    app.router.add_get("/", answer)
    app.router.add_get("/download", download)
    app.router.add_get("/slow", slow)
    limits = {"max_connections": LIMIT, "max_body_bytes": MAX_BODY_BYTES}
    async with serving(app, listener, lambda: served.dropped.append(None), **limits):
        served.number = listener.getsockname()[1]
        yield served


async def ask(port: Port, *parts: bytes) -> bytes:
    """Send parts, a moment apart, and return all that comes back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port.number)
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


async def test_the_oldest_connection_is_dropped(port: Port) -> None:
    """When silent connections fill the limit, a new one gets in, and the oldest is dropped and counted."""
    silent = [await asyncio.open_connection("127.0.0.1", port.number) for _ in range(LIMIT)]
    reading = [asyncio.create_task(reader.read()) for reader, _ in silent]
    assert (await ask(port, HEAD + b"\r\n")).startswith(b"HTTP/1.1 200")
    await asyncio.sleep(0.05)
    assert [one.done() for one in reading] == [True] + [False] * (LIMIT - 1)
    assert len(port.dropped) == 1
    for _, writer in silent:
        writer.transport.abort()
    await asyncio.gather(*reading, return_exceptions=True)


async def test_closed_connections_do_not_count(port: Port) -> None:
    """Any number of requests one after another causes no drop."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port.number)
    for _ in range(3 * LIMIT):
        assert (await ask(port, HEAD + b"\r\n")).startswith(b"HTTP/1.1 200")
    writer.write(HEAD + b"\r\n")
    assert (await reader.read(12)) == b"HTTP/1.1 200"
    writer.transport.abort()
    assert port.dropped == []


async def test_a_head_has_a_limit(port: Port) -> None:
    """Many header lines, each of them short enough, are refused when they are too large together."""
    assert (await ask(port, HEAD + LINES)).startswith(b"HTTP/1.1 431")
    assert not (await ask(port, HEAD, *[LINE] * 10, b"\r\n")).startswith(b"HTTP/1.1 200")
    assert (await ask(port, HEAD, LINE, LINE, b"\r", b"\n")).startswith(b"HTTP/1.1 200")


async def test_empty_lines_do_not_end_a_head(port: Port) -> None:
    """Lines that a client sends before its request do not make the head's limit wider."""
    assert (await ask(port, b"\r\n\r\n" + HEAD + LINES)).startswith(b"HTTP/1.1 431")
    assert (await ask(port, b"\r\n\r\n" + HEAD + b"\r\n")).startswith(b"HTTP/1.1 200")


async def test_every_head_has_a_limit(port: Port) -> None:
    """On a connection that is kept, later requests have the limits of the first one, and any number of them is answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port.number)
    for _ in range(10):
        writer.write(GET + LINE * 2 + b"\r\n")
        assert (await reader.readuntil(b"0 bytes")).startswith(b"HTTP/1.1 200")
    writer.write(GET + LINES)
    assert (await reader.read(12)) == b"HTTP/1.1 431"
    writer.transport.abort()
    assert port.dropped == []


async def test_a_head_that_is_too_large_takes_no_earlier_answer(port: Port, caplog: pytest.LogCaptureFixture) -> None:
    """Two requests in one packet, and junk while the second is answered: both are answered, and nothing fails in the log."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port.number)
    writer.write(GET + b"\r\n" + GET.replace(b"GET /", b"GET /slow") + b"\r\n")
    assert await reader.readuntil(b"0 bytes")
    await asyncio.wait_for(port.is_slow.wait(), 5)
    writer.write(LINES)
    await asyncio.sleep(0.1)
    port.go_on.set()
    assert b"200 OK" in await reader.readuntil(b"slow")
    writer.transport.abort()
    assert caplog.records == []


async def test_a_client_that_still_sends_sees_the_answer(port: Port) -> None:
    """A head of a megabyte, sent at once, is answered and not only cut off."""
    assert (await ask(port, HEAD + LINE * 140)).startswith(b"HTTP/1.1 431")


async def test_a_body_does_not_count_as_head(port: Port) -> None:
    """A body may be larger than a head, wherever packets end."""
    body = b"x" * (MAX_HEAD_BYTES + 1)
    head = HEAD + b"Content-Length: %d\r\n" % len(body)
    assert (await ask(port, head + b"\r\n" + body)).startswith(b"HTTP/1.1 200")
    assert (await ask(port, head + b"\r", b"\n", body)).startswith(b"HTTP/1.1 200")


async def test_the_largest_permitted_request(port: Port) -> None:
    """A body of the limit passes whole, with its length or in chunks of a usual size."""
    whole = HEAD + b"Content-Length: %d\r\n\r\n" % MAX_BODY_BYTES + b"x" * MAX_BODY_BYTES
    chunks = CHUNKED + b"1000\r\n%s\r\n" % (b"x" * 4096) * 16 + b"0\r\n\r\n"
    for request in (whole, chunks):
        assert (await ask(port, request)).endswith(b"65536 bytes")


@pytest.mark.parametrize(
    "endless",
    [
        pytest.param(b"0\r\n" + LINE * 20, id="trailers"),
        pytest.param(b"5;" + b"x" * 150_000, id="chunk extension"),
        pytest.param(b"1\r\nx\r\n" * 20_000, id="tiny chunks"),
    ],
)
async def test_everything_around_a_body_counts(port: Port, endless: bytes) -> None:
    """Trailers, chunk extensions and the framing of chunks have a limit, although they are no part of head or body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port.number)
    writer.write(CHUNKED + endless)
    assert (await reader.read(12)) == b"HTTP/1.1 413"
    writer.transport.abort()


async def test_all_connections_share_a_limit_of_bytes(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    """When heads and bodies that don't end hold too much together, the largest is dropped, and small requests are answered."""
    async with asyncio.timeout(3):
        listener, dropped = bind("127.0.0.1", 0, ""), Port()
        monkeypatch.setattr(connection_limiter, "MAX_PENDING_BYTES", FEW_BYTES)
        async with serving(web.Application(), listener, lambda: dropped.dropped.append(None)):
            dropped.number = listener.getsockname()[1]
            small = await asyncio.open_connection("127.0.0.1", dropped.number)
            small[1].write(GET)
            large = [await asyncio.open_connection("127.0.0.1", dropped.number) for _ in range(3)]
            for _, writer in large:
                writer.write(GET + LINE * 4)
            while not dropped.dropped:
                await asyncio.sleep(0.005)
            small[1].write(b"\r\n")
            assert (await small[0].read(12)) == b"HTTP/1.1 404"
            assert len(dropped.dropped) == 1
            for _, writer in (small, *large):
                writer.transport.abort()


@pytest.mark.parametrize("limit", ["time", "memory"])
async def test_an_answer_that_is_not_taken(port: Port, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    """A client that does not read its answer is dropped: soon, or at once where the answers take too much memory."""
    if limit == "time":
        monkeypatch.setattr(connection_limiter, "ANSWER_TIMEOUT_S", 0.1)
    else:
        monkeypatch.setattr(connection_limiter, "MAX_PENDING_BYTES", 100_000)
    with socket.socket() as client:
        without = _open_files()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", port.number))
        await asyncio.get_running_loop().sock_sendall(client, b"GET /download HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(5):
            while not port.downloads or _open_files() > without:
                await asyncio.sleep(0.005)
    assert len(port.dropped) == (limit == "memory")


def _open_files() -> int:
    return len(os.listdir("/proc/self/fd"))
