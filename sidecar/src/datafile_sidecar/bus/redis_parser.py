"""A parser of Redis' protocol (RESP2) that holds little, whatever the broker or another client of it sends.

The parsers of the package `redis` read each value whole and copy it, however long it is.
"""

from asyncio import IncompleteReadError, LimitOverrunError, StreamReader
from typing import Any, Final

from redis._parsers import BaseParser
from redis.exceptions import ConnectionError as LostConnectionError
from redis.exceptions import InvalidResponse

from datafile_sidecar.bus.traffic import Traffic
from datafile_sidecar.core.bus_message import MAX_MESSAGE_BYTES
from datafile_sidecar.core.bus_record import MAX_VALUE_BYTES
from datafile_sidecar.core.fleet_record import MAX_RECORD_BYTES

_MAX_ITEMS: Final = 64
_MAX_FIELDS: Final = 4096
"""Names and values of fields in one step through a hash, which the broker may make longer than it was asked for."""
_LONG_BYTES: Final = 1024
_CHUNK_BYTES: Final = 65536
_KINDS: Final = (b"", b"+", b"-", b":", b"$", b"*")
_CLOSED: Final = "Connection closed by server."


class BoundedParser(BaseParser):
    """Reads the replies on one connection. What is longer than any value of the bus is skipped, and not held.

    A reply that is a string can be a whole datafile; one in a list can only be a message, and one in a list within a list of two
    a field of a hash. All are cut one byte after the longest that is valid.
    """

    def __init__(self, traffic: Traffic, socket_read_size: int) -> None:
        """Take the counter of the broker's traffic; the package gives the size, which asyncio's streams don't need."""
        self._traffic = traffic
        self._stream: StreamReader | None = None

    def on_connect(self, connection: Any) -> None:
        """Begin to read a connection that is open."""
        self._stream = connection._reader
        self._traffic.opened(connection._writer)

    def on_disconnect(self) -> None:
        """Read no more."""
        self._stream = None

    async def can_read(self) -> bool:
        """Return whether the server has closed the connection."""
        return self._opened().at_eof()

    async def read_response(self, disable_decoding: bool = False) -> Any:
        """Return the next reply. An error that leaves the connection usable is returned, any other one is raised."""
        try:
            return await self._reply(self._opened(), MAX_VALUE_BYTES + 1, _MAX_ITEMS)
        except IncompleteReadError as error:
            raise LostConnectionError(_CLOSED) from error

    def _opened(self) -> StreamReader:
        if self._stream is None:
            raise LostConnectionError(_CLOSED)
        return self._stream

    async def _reply(self, stream: StreamReader, max_bytes: int, max_items: int) -> Any:
        line = await _read_line(stream)
        match line[:1]:
            case b"+":
                return line[1:]
            case b":":
                return _number(line)
            case b"-":
                error = self.parse_error(line[1:].decode(errors="replace"))  # type: ignore[no-untyped-call]
                if isinstance(error, LostConnectionError):
                    raise error
                return error
            case b"$":
                return None if line == b"$-1" else await self._bytes(stream, _number(line), max_bytes)
            case b"*" if max_items:
                return None if line == b"*-1" else await self._items(stream, _number(line), max_items)
        raise _foreign(line)

    async def _items(self, stream: StreamReader, count: int, max_items: int) -> list[Any]:
        if count > max_items:
            raise InvalidResponse(f"a reply has {count} items")
        if max_items == _MAX_FIELDS:
            return [await self._reply(stream, MAX_RECORD_BYTES + 1, 0) for _ in range(count)]
        nested = _MAX_FIELDS if count == len(("cursor", "fields")) else 0
        return [await self._reply(stream, MAX_MESSAGE_BYTES + 1, nested) for _ in range(count)]

    async def _bytes(self, stream: StreamReader, length: int, max_bytes: int) -> bytes:
        held, left, room = list[bytes](), length, min(length, max_bytes)
        while left:
            chunk = await stream.read(min(left, _CHUNK_BYTES))
            if not chunk:
                raise LostConnectionError(_CLOSED)
            left -= len(chunk)
            if length >= _LONG_BYTES:
                self._traffic.received(len(chunk))
            if room:
                held.append(chunk[:room])
                room -= len(held[-1])
        await stream.readexactly(len(b"\r\n"))
        return b"".join(held)


async def _read_line(stream: StreamReader) -> bytes:
    try:
        return (await stream.readuntil(b"\r\n"))[:-2]
    except LimitOverrunError as error:
        raise InvalidResponse("this is not Redis: it sends a line without end") from error
    except IncompleteReadError as error:
        if error.partial[:1] in _KINDS:
            raise
        raise _foreign(error.partial) from error


def _number(line: bytes) -> int:
    digits = line[1:]
    if not digits.isdigit() or len(digits) > len(str(2**63)):
        raise _foreign(line)
    return int(digits)


def _foreign(answer: bytes) -> InvalidResponse:
    return InvalidResponse(f"this is not Redis: it answers {answer[:80].decode(errors='replace')!r}")
