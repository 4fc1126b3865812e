"""Limits what clients that are not authenticated can take: how many connections, and how much memory with all of them."""

import asyncio
from collections.abc import Callable
from typing import Final

from aiohttp import StreamReader, web
from aiohttp.http import HttpProcessingError

from datafile_sidecar.network import memory

MAX_HEAD_BYTES: Final = 32 * 1024
MAX_PENDING_BYTES: Final = 1024 * 1024
"""Of all connections of a port together: what is not answered yet, and answers that the client does not take. aiohttp takes two
or three times as much memory for the headers that it keeps."""
ANSWER_TIMEOUT_S: Final = 5.0
_COUNTED_ANSWER_BYTES = 128 * 1024  # at most, so that eight clients may take an answer of any size at the same time
_PARSED_BYTES = 512
"""Of one connection in one iteration of the event loop: to parse chunks of one byte is slow, and takes eight times their size in
memory. All that has come is read before, since a client that still sends would not see the answer of a closed connection."""
_PAUSE_S = 0.01
_LINGER_S = 1.0
_RELEASED_BYTES = 256 * 1024
_RELEASE_AFTER_S = (0.25, 2.5)  # soon, since an attack goes on, and again when requests that were broken off have ended
_END = b"\r\n\r\n"
_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class RequestTooLargeError(HttpProcessingError):
    """A request has more bytes than the port admits; reading its body raises this."""

    def __init__(self) -> None:
        """Describe it."""
        super().__init__(code=413, message="the request has too many bytes")


class ConnectionLimiter:
    """Keeps the open connections of a port, and the bytes that they hold, below a limit; the protocol factory of a server.

    At the limit of connections the oldest one is dropped; real senders post right after connecting. A request is answered as
    soon as it is whole, and then its bytes no longer count, so an old connection has not sent a whole one. At the limit of bytes
    the connection that holds most is dropped; real requests are small.
    """

    def __init__(
        self, protocol: Callable[[], asyncio.Protocol], limit: int, on_drop: Callable[[], None], *, max_body_bytes: int
    ) -> None:
        """Start without connections.

        Args:
            protocol: Creates the HTTP protocol of one connection.
            limit: How many connections may be open.
            on_drop: Called for each connection that is dropped at a limit.
            max_body_bytes: What a request may have beside 32 KiB for its head: its body, the framing of chunks, and trailers.
        """
        self.max_request_bytes = MAX_HEAD_BYTES + max_body_bytes
        self._protocol = protocol
        self._limit = limit
        self._on_drop = on_drop
        self._pending_bytes = 0
        self._freed_bytes = 0
        self._open: dict[LimitedConnection, None] = {}
        self.buffer = memoryview(bytearray(64 * 1024))
        """Shared, since every read is passed on at once."""

    def __call__(self) -> asyncio.BufferedProtocol:
        """Create the protocol of a connection that has just been accepted."""
        return LimitedConnection(self._protocol(), self)

    def opened(self, connection: "LimitedConnection") -> None:
        """Count a new connection, and drop the oldest ones above the limit."""
        self._open[connection] = None
        while len(self._open) > self._limit:
            self._drop(next(iter(self._open)))

    def closed(self, connection: "LimitedConnection") -> None:
        """Forget a connection that has ended."""
        if connection in self._open:
            del self._open[connection]
            self._pending_bytes -= connection.pending_bytes
            self._free(connection.pending_bytes)

    def held(self, connection: "LimitedConnection", change: int) -> None:
        """Count what a connection holds more, or less; drop those that hold most above the limit."""
        connection.pending_bytes += change
        if connection in self._open:
            self._pending_bytes += change
        while self._pending_bytes > MAX_PENDING_BYTES:
            self._drop(max(self._open, key=lambda one: one.pending_bytes))

    def _free(self, count: int) -> None:
        """Release the memory of requests that were not answered, soon, once there is enough of it."""
        was_enough, self._freed_bytes = self._freed_bytes >= _RELEASED_BYTES, self._freed_bytes + count
        if self._freed_bytes >= _RELEASED_BYTES and not was_enough:
            for delay_s in _RELEASE_AFTER_S:
                asyncio.get_running_loop().call_later(delay_s, self._release)

    def _release(self) -> None:
        self._freed_bytes = 0
        memory.release()

    def _drop(self, connection: "LimitedConnection") -> None:
        self.closed(connection)
        connection.transport.abort()
        self._on_drop()


class LimitedConnection(asyncio.BufferedProtocol):
    """Passes one connection's data on to the HTTP protocol, up to a limit for each request; what is more is read and dropped.

    aiohttp limits each line of a head and of trailers, and their number, but together they could take megabytes of memory.
    """

    transport: asyncio.Transport

    def __init__(self, http: asyncio.Protocol, limiter: ConnectionLimiter) -> None:
        """Begin in the head of the first request."""
        self.pending_bytes = 0
        self._http = http
        self._limiter = limiter
        self._received = 0
        self._unsent = 0
        self._last = b""
        self._unparsed = bytearray()
        self._is_parsing = False
        self._is_in_head = True
        self._is_at_end = False
        self._is_too_large = False
        self._is_refused = False
        self._is_answering = False
        self._chunks: StreamReader | None = None
        self._deadline: asyncio.TimerHandle | None = None

    # What the application reports

    def request_began(self, request: web.BaseRequest) -> None:
        """Note the request that is handled now: to read its body fails when it becomes too large, unless it says its length."""
        self._is_answering = True
        self._chunks = request.content if request.content_length is None else None
        self._fail_reading()

    def request_ended(self, content: StreamReader) -> None:
        """Count anew for the next request, unless this one was answered before its body was whole."""
        self._is_answering, self._chunks = False, None
        if problem := content.exception():
            problem.__traceback__ = None  # it refers to all that was read, and is itself referred to by that
        if content.is_eof():
            self._limiter.held(self, len(self._unparsed) - self._received)
            self._received, self._last = len(self._unparsed), b""
            self._is_in_head, self._is_too_large = True, False

    # What the transport reports

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count the connection."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.set_write_buffer_limits(high=0)  # so that `pause_writing` tells of every byte that waits
        self._http.connection_made(transport)
        self._limiter.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._stop_waiting()
        self._limiter.closed(self)
        self._http.connection_lost(exc)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where to read the next bytes to."""
        return self._limiter.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Take what the request may still have."""
        if self._is_too_large or self.transport.is_closing():
            return
        data = bytes(self._limiter.buffer[:nbytes])
        if not self._received:
            data = data.lstrip(b"\r\n")  # which is permitted before a request, and is no end of a head
        if self._is_in_head and not self._has_small_head(data):
            self._refuse()
            return
        passed = data[: self._limiter.max_request_bytes - self._received]
        self._received += len(passed)
        self._limiter.held(self, len(passed))
        self._unparsed += passed
        if not self._is_parsing:
            self._parse()
        if len(passed) < len(data):
            self._is_too_large = True
            self._fail_reading()

    def eof_received(self) -> bool | None:
        """Pass it on after what came before."""
        self._is_at_end = True
        return True if self._is_parsing else self._http.eof_received()

    def pause_writing(self) -> None:
        """Count the answer that the client does not take, and drop the connection unless it does so soon."""
        self._unsent = min(self.transport.get_write_buffer_size(), _COUNTED_ANSWER_BYTES)
        self._deadline = asyncio.get_running_loop().call_later(ANSWER_TIMEOUT_S, self.transport.abort)
        self._http.pause_writing()
        self._limiter.held(self, self._unsent)

    def resume_writing(self) -> None:
        """The client has taken the whole answer."""
        self._stop_waiting()
        self._limiter.held(self, -self._unsent)
        self._http.resume_writing()

    def _parse(self) -> None:
        """Pass a few bytes on, and the next ones in the next iteration of the event loop, unless aiohttp wants a pause."""
        if self.transport.is_closing() or self._is_refused:
            self._unparsed.clear()
        self._is_parsing = bool(self._unparsed)
        if self._is_parsing and not self.transport.is_reading():
            asyncio.get_running_loop().call_later(_PAUSE_S, self._parse)
        elif self._is_parsing:
            some = bytes(self._unparsed[:_PARSED_BYTES])
            del self._unparsed[:_PARSED_BYTES]
            self._http.data_received(some)
            asyncio.get_running_loop().call_soon(self._parse)
        elif self._is_at_end:
            self.transport.close()

    def _has_small_head(self, data: bytes) -> bool:
        """Look for the end of the head; tell whether the head is, or still can be, within its limit."""
        searched = self._last + data[: MAX_HEAD_BYTES - self._received]
        self._is_in_head = _END not in searched
        self._last = searched[-len(_END) + 1 :]
        return not self._is_in_head or self._received + len(data) <= MAX_HEAD_BYTES

    def _refuse(self) -> None:
        """Answer that the head is too large, and read on for a moment: a client that still sends would not see the answer.

        Nothing is answered in the place of an earlier request, which still gets its own answer.
        """
        self._is_refused = self._is_too_large = True
        if not self._is_answering:
            self.transport.write(_TOO_LARGE)
            self.transport.write_eof()
        asyncio.get_running_loop().call_later(_LINGER_S, self.transport.abort)

    def _fail_reading(self) -> None:
        if self._is_too_large and self._chunks is not None and not self._chunks.is_eof():
            self._chunks.set_exception(RequestTooLargeError())

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
