"""Raw servers on 127.0.0.1 for the tests of the fetch: what is on the wire is what the test wrote, faults included."""

import asyncio
import contextlib
import gzip
import json
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from datafile_sidecar.upstream import Fetched, FetchError, Upstream

CA_FILE = Path(__file__).parent / "tls" / "ca.pem"
SERVER_FILE = Path(__file__).parent / "tls" / "server.pem"
KEY = "KEY1"
DATAFILE = json.dumps({"version": "4", "revision": "43", "sdkKey": KEY, "padding": list(range(500))}).encode()

Script = Callable[["Request", asyncio.StreamWriter], Awaitable[None]]


@dataclass(frozen=True)
class Request:
    """The head of one request as it came."""

    line: str
    headers: dict[str, str]
    rest: asyncio.StreamReader = field(repr=False)


@dataclass
class Wire:
    """A server: its port, and the requests it has seen. `answer` may be exchanged at any time."""

    answer: bytes | Script
    host: str
    scheme: str
    port: int = 0
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _writers: list[asyncio.StreamWriter] = field(default_factory=list)

    @property
    def origin(self) -> str:
        """`http://host:port`, ready for a path."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    @property
    def template(self) -> str:
        """A DATAFILE_URL_TEMPLATE that points here."""
        return f"{self.origin}/datafiles/{{sdk_key}}.json"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer what comes on one connection until it ends; a broken connection is the other side's right."""
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.append(writer)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while await self._serve_one(reader, writer):
                pass
        writer.close()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        line, *rest = head.strip().split("\r\n")
        request = Request(
            line, {k.lower(): v.strip() for k, _, v in (header.partition(":") for header in rest)}, reader
        )
        self.requests.append(request)
        if not isinstance(self.answer, bytes):
            await self.answer(request, writer)
            return False
        writer.write(self.answer)
        await writer.drain()
        body = self.answer.partition(b"\r\n\r\n")[2]
        return b"Content-Length: %d\r\n" % len(body) in self.answer or b" 304 " in self.answer[:20]

    async def reset(self) -> None:
        """Break every open connection, as a rude server does."""
        for writer in self._writers:
            reset(writer)
        await asyncio.sleep(0.05)

    async def stop(self) -> None:
        """End every open connection."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def wire(
    answer: bytes | Script, *, host: str = "127.0.0.1", port: int = 0, tls: bool = False
) -> AsyncIterator[Wire]:
    """Serve `answer` (raw bytes, or a coroutine function that writes them) on `port`, by default a free one, of `host`."""
    served = Wire(answer, host, "https" if tls else "http")
    server = await asyncio.start_server(served.serve, host, port, ssl=server_tls() if tls else None)
    served.port = server.sockets[0].getsockname()[1]
    try:
        yield served
    finally:
        server.close()
        await served.stop()


def server_tls() -> ssl.SSLContext:
    """The TLS settings of a server whose certificate CA_FILE signed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(SERVER_FILE)
    return context


def reset(writer: asyncio.StreamWriter) -> None:
    """End a connection by RST instead of FIN."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def ok(body: bytes = DATAFILE, *headers: str, compress: bool = False) -> bytes:
    """A good answer with its Content-Length."""
    if compress:
        body, headers = gzip.compress(body, mtime=0), (*headers, "Content-Encoding: gzip")
    return head(200, *headers, f"Content-Length: {len(body)}") + body


def head(status: int, *headers: str) -> bytes:
    """A status line, headers and the empty line."""
    return "\r\n".join([f"HTTP/1.1 {status} Whatever", *headers, "", ""]).encode()


async def body_after_retries(upstream: Upstream) -> bytes:
    """The body from the template's URL; a machine under load may need some tries where the time-out is short."""
    for _ in range(20):
        with contextlib.suppress(FetchError):
            result = await upstream.fetch(upstream.url(KEY), sdk_key=KEY)
            assert isinstance(result, Fetched)
            return result.body
    raise AssertionError("it did not heal within 20 tries")


@contextlib.asynccontextmanager
async def proxy(target: Wire, *, tls: bool = False) -> AsyncIterator[Wire]:
    """A proxy that records what it is asked and leads every CONNECT to `target`, whatever name was wanted."""

    async def connect(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(head(200))
        reader_there, writer_there = await asyncio.open_connection(target.host, target.port)
        try:
            await asyncio.gather(_copy(request.rest, writer_there), _copy(reader_there, writer))
        finally:
            writer_there.close()

    async with wire(connect, tls=tls) as served:
        yield served


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
    sink.close()
