"""Limits what clients that are not authenticated can take: how many connections, and how large a request's head."""

import asyncio
from collections.abc import Callable
from typing import Final

MAX_HEAD_BYTES: Final = 32 * 1024
_END = b"\r\n\r\n"
_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class ConnectionLimiter:
    """Keeps the open connections of a port below a limit; use it as the protocol factory of a server.

    At the limit the oldest connection is dropped; real senders post right after connecting. A request is answered as soon as
    it is whole, and then its connection ends, so an old connection has not sent a whole one.
    """

    def __init__(self, protocol: Callable[[], asyncio.Protocol], limit: int, on_drop: Callable[[], None]) -> None:
        """Start without connections.

        Args:
            protocol: Creates the HTTP protocol of one connection.
            limit: How many connections may be open.
            on_drop: Called for each connection that is dropped at the limit.
        """
        self._protocol = protocol
        self._limit = limit
        self._on_drop = on_drop
        self._open: dict[_LimitedConnection, None] = {}

    def __call__(self) -> asyncio.Protocol:
        """Create the protocol of a connection that has just been accepted."""
        return _LimitedConnection(self._protocol(), self)

    def opened(self, connection: "_LimitedConnection") -> None:
        """Count a new connection, and drop the oldest ones above the limit."""
        self._open[connection] = None
        while len(self._open) > self._limit:
            oldest = next(iter(self._open))
            self.closed(oldest)
            oldest.transport.abort()
            self._on_drop()

    def closed(self, connection: "_LimitedConnection") -> None:
        """Forget a connection that has ended."""
        self._open.pop(connection, None)


class _LimitedConnection(asyncio.Protocol):
    """Passes one connection's data on to the HTTP protocol, up to a limit for the head of the first request.

    aiohttp limits each header line and their number, but together they could take a megabyte of memory.
    """

    transport: asyncio.WriteTransport

    def __init__(self, http: asyncio.Protocol, limiter: ConnectionLimiter) -> None:
        self._http = http
        self._limiter = limiter
        self._head: bytearray | None = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self.transport = transport
        self._http.connection_made(transport)
        self._limiter.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._limiter.closed(self)
        self._http.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._head is None or not self._is_oversized(self._head, data):
            self._http.data_received(data)
        elif not self.transport.is_closing():
            self.transport.write(_TOO_LARGE)
            self.transport.close()

    def _is_oversized(self, head: bytearray, data: bytes) -> bool:
        searched = max(0, len(head) - len(_END) + 1)
        head += data
        if head.find(_END, searched, MAX_HEAD_BYTES) >= 0:
            self._head = None
            return False
        return len(head) > MAX_HEAD_BYTES

    def eof_received(self) -> bool | None:
        return self._http.eof_received()

    def pause_writing(self) -> None:
        self._http.pause_writing()

    def resume_writing(self) -> None:
        self._http.resume_writing()
