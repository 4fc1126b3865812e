"""Whole lines into a stream whose reader may be slow, hang, or be gone: none of that may stop who writes them.

A line is written at once where that can't block. Else it waits, and all that come after it, for a thread that may block, so
that lines keep their order; what waits has a bound.
"""

import contextlib
import os
import select
import stat
import threading
from collections import deque
from typing import Final, TextIO

MAX_WAITING_BYTES: Final = 512 * 1024
_THREAD = "lines-for-a-slow-reader"


class Lines:
    """A file that takes whole lines, and none once it is broken."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._descriptor, self._room = _looked_at(stream)
        # Reentrant, for a finaliser may log wherever memory is taken, also in here.
        self._lock = threading.RLock()
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._writer: threading.Thread | None = None
        self._dropped = 0

    def isatty(self) -> bool:
        """Whether a person reads them."""
        return self._stream.isatty()

    def take_dropped(self) -> int:
        """How many lines found no place to wait since this was asked last."""
        with self._lock:
            dropped, self._dropped = self._dropped, 0
            return dropped

    def msg(self, line: str) -> None:
        """Write a line, now or as soon as there is room for it."""
        text = f"{line}\n".encode(errors="backslashreplace")
        with self._lock:
            if self._waiting or not self._has_room(text):
                self._wait(text)
            else:
                self._write(text)

    debug = info = warning = error = msg

    def _has_room(self, text: bytes) -> bool:
        """Whether writing this can't block: a pipe that has room at all has it for a page."""
        return self._room is None or (len(text) <= select.PIPE_BUF and bool(self._room.poll(0)))

    def _wait(self, text: bytes) -> None:
        if self._waiting_bytes + len(text) > MAX_WAITING_BYTES:
            self._dropped += 1
            return
        self._waiting.append(text)
        self._waiting_bytes += len(text)
        if self._writer is None:
            self._writer = threading.Thread(target=self._write_waiting, name=_THREAD, daemon=True)
            self._writer.start()

    def _write_waiting(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._writer = None
                    return
                text = self._waiting[0]
            self._write(text, self._room)
            with self._lock:
                self._waiting.popleft()
                self._waiting_bytes -= len(text)

    def _write(self, text: bytes, room: "select.poll | None" = None) -> None:
        # Past the stream's buffer: who flushes that at the end must not wait for a write that hangs.
        with contextlib.suppress(OSError, ValueError):
            if self._descriptor is None:
                self._stream.write(text.decode())
                self._stream.flush()
            elif not self._stream.closed:
                rest = memoryview(text)
                while rest:
                    if room is not None:
                        room.poll()
                    rest = rest[os.write(self._descriptor, rest[: select.PIPE_BUF]) :]


def settle(within_s: float) -> None:
    """Give lines that wait for their reader so long; then the process may end."""
    for thread in threading.enumerate():
        if thread.name == _THREAD:
            thread.join(within_s)


def _looked_at(stream: TextIO) -> tuple[int | None, "select.poll | None"]:
    """The stream's descriptor, where it has one, and what to ask for room, where writing can block for long."""
    try:
        descriptor = stream.fileno()
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return descriptor, None
    except (OSError, ValueError):
        return None, None
    room = select.poll()
    room.register(descriptor, select.POLLOUT)
    return descriptor, room
