"""One connection on `sidecar.sock`: lines in, of which the newest about each SDK key counts, and lines out."""

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from datafile_sidecar.core import worker_message
from datafile_sidecar.core.times import rfc3339
from datafile_sidecar.core.worker_message import MalformedLineError, WorkerMessage

FIRST_LINE_WITHIN_S = 5.0
_READ_BYTES = 16384
_PAUSE_PER_LINE_S = 0.001  # so that a process that writes without end costs little
_PAUSE_MIN_S = 0.01

# asyncio fills it and calls `buffer_updated` in one go, so all connections share it.
_read_buffer = bytearray(_READ_BYTES)


class Listener(Protocol):
    """What a connection reports to."""

    def opened(self, connection: "WorkerConnection") -> bool:
        """Take a new connection; tell whether there was a place for it."""

    def received(self, connection: "WorkerConnection", message: WorkerMessage) -> bool:
        """Take a message; tell whether the connection may stay."""

    def refuse(self, reason: str) -> None:
        """Note that a connection was closed, which may be a worker's."""

    def closed(self, connection: "WorkerConnection") -> None:
        """Note the end of a connection."""

    def line(self, sdk_key: str) -> bytes:
        """Return the line that tells what is published now."""


@dataclass(slots=True)
class Report:
    """What a worker said last of one SDK key, and when.

    `seen` is in Unix seconds, `swapped_at` in seconds of `time.monotonic`. `measured` is the publication whose time to apply is
    told already.
    """

    message: WorkerMessage
    seen: float = field(default_factory=time.time)
    swapped_at: float | None = None
    measured: float | None = None

    def view(self, published_revision: int | None, published_sha256: str | None) -> dict[str, Any]:
        """Return the worker, as `/status` shows it."""
        message, refused = self.message, None
        if message.refused:
            is_current = (published_sha256 or "").startswith(message.refused.sha256 or "")
            refused = {"revision": published_revision if is_current else None, "reason": message.refused.reason}
        worker = {"id": message.id, "pid": message.pid, "host": message.host, "revision": message.revision}
        return worker | {"sha256": message.sha256, "refused": refused, "seen": rfc3339(self.seen)}


class WorkerConnection(asyncio.BufferedProtocol):
    """The connection of a process, which may use several SDK keys. It is closed at a line that can't be parsed.

    `process` and `lock` are as in the first line, None before it; `lock` is the offset of the byte that it says it has locked.
    """

    def __init__(self, listener: Listener) -> None:
        """Report to this listener."""
        self.process: tuple[str, int, str] | None = None
        self.lock: int | None = None
        self.reports: dict[str, Report] = {}
        self._listener = listener
        self._rest = b""
        self._untold: dict[str, None] = {}
        self._is_full = False
        self._transport: asyncio.Transport

    def is_of(self, message: WorkerMessage) -> bool:
        """Tell whether a line is of the process that this connection has been of, which the first line says."""
        if self.process is None:
            self.process, self.lock = message.process, message.lock
        return (self.process, self.lock) == (message.process, message.lock)

    def close(self) -> None:
        """Hang up."""
        self._transport.abort()

    def tell(self, sdk_keys: Iterable[str]) -> None:
        """Tell what is published. To a process that does not read, nothing more is sent: it gets the newest when it reads on."""
        self._untold.update(dict.fromkeys(sdk_keys))
        if not self._is_full and self._untold:
            lines = b"".join(map(self._listener.line, self._untold))
            self._untold.clear()
            self._transport.write(lines)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin: the first line has to come soon."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=0)
        if self._listener.opened(self):
            asyncio.get_running_loop().call_later(FIRST_LINE_WITHIN_S, self._check_identified)
        else:
            self.close()

    def get_buffer(self, sizehint: int) -> bytearray:
        """Return where the bytes go."""
        return _read_buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Take the whole lines."""
        try:
            messages, self._rest = worker_message.parse_lines(self._rest + _read_buffer[:nbytes])
        except MalformedLineError:
            self._listener.refuse("malformed")
            self.close()
            return
        self._transport.pause_reading()
        pause_s = max(_PAUSE_MIN_S, len(messages) * _PAUSE_PER_LINE_S)
        asyncio.get_running_loop().call_later(pause_s, self._transport.resume_reading)
        newest = {message.sdk_key: message for message in messages}
        if not all(self._listener.received(self, message) for message in newest.values()):
            self.close()

    def pause_writing(self) -> None:
        """Keep back what is to be told: the process has not read what it was told before."""
        self._is_full = True

    def resume_writing(self) -> None:
        """Tell what was kept back, at its newest."""
        self._is_full = False
        self.tell(())

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._listener.closed(self)

    def _check_identified(self) -> None:
        if self.process is None and not self._transport.is_closing():
            self._listener.refuse("silent")
            self.close()
