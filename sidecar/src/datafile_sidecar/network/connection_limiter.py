"""The open connections of a port that strangers can reach: how many there may be, and how much each may have us keep."""

import asyncio
from collections.abc import Callable
from typing import Final

MAX_HEAD_BYTES: Final = 32 * 1024
_END = b"\r\n\r\n"
_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Crowd:
    """The open connections of a port. Where there are too many, the oldest gives way: who has something to say has said it by then.

    A request is answered as soon as it is whole, and its connection ends; so what is old has not sent a whole one.
    """

    def __init__(
        self, protocol: Callable[[], asyncio.Protocol], limit: int, dropped: Callable[[], None] = lambda: None
    ) -> None:
        """`protocol` makes what speaks HTTP on one connection; `dropped` is told of each that gave way."""
        self._protocol = protocol
        self._limit = limit
        self._dropped = dropped
        self._open: dict[_Connection, None] = {}

    def __call__(self) -> asyncio.Protocol:
        """The protocol of a connection that has just been accepted."""
        return _Connection(self._protocol(), self)

    def join(self, connection: "_Connection") -> None:
        """A connection has been opened."""
        self._open[connection] = None
        while len(self._open) > self._limit:
            oldest = next(iter(self._open))
            self.leave(oldest)
            oldest.abort()
            self._dropped()

    def leave(self, connection: "_Connection") -> None:
        """A connection has ended."""
        self._open.pop(connection, None)


class _Connection(asyncio.Protocol):
    """What comes between a connection and who speaks HTTP on it: it is counted, and its first head is bounded as a whole.

    aiohttp bounds each line and the number of lines, which together are a megabyte that anybody can have us keep.
    """

    def __init__(self, http: asyncio.Protocol, crowd: Crowd) -> None:
        self._http = http
        self._crowd = crowd
        self._head: bytearray | None = bytearray()
        self._transport: asyncio.BaseTransport | None = None

    def abort(self) -> None:
        """End it, whatever the other side may still want."""
        if isinstance(self._transport, asyncio.WriteTransport):
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._http.connection_made(transport)
        self._crowd.join(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._crowd.leave(self)
        self._http.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._head is not None and self._is_oversized(self._head, data):
            self._refuse()
        else:
            self._http.data_received(data)

    def _is_oversized(self, head: bytearray, data: bytes) -> bool:
        looked_at = max(0, len(head) - len(_END) + 1)
        head += data
        if head.find(_END, looked_at, MAX_HEAD_BYTES) >= 0:
            self._head = None
            return False
        return len(head) > MAX_HEAD_BYTES

    def _refuse(self) -> None:
        if isinstance(self._transport, asyncio.WriteTransport) and not self._transport.is_closing():
            self._transport.write(_TOO_LARGE)
            self._transport.close()

    def eof_received(self) -> bool | None:
        return self._http.eof_received()

    def pause_writing(self) -> None:
        self._http.pause_writing()

    def resume_writing(self) -> None:
        self._http.resume_writing()
