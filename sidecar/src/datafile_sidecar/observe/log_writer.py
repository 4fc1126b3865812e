"""Writes whole lines to a stream whose reader may be slow, hang, or be gone, and never blocks its caller.

A line is written at once where that can't block, so that it is out even if the process is killed in the next moment. Else it
waits, and so do all later lines, for a thread that may block. That keeps the lines in order. The waiting bytes are limited.
"""

import contextlib
import os
import select
import stat
import threading
from collections import deque
from typing import Final, TextIO

MAX_WAITING_BYTES: Final = 512 * 1024
_THREAD = "log-writer"


class LogWriter:
    """Writes lines to one stream. Once the stream is broken, it drops them silently."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self._descriptor, self._poll = _inspect(stream)
        # Reentrant: a finaliser may log wherever memory is allocated, also in here.
        self._lock = threading.RLock()
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._dropped = 0

    def take_dropped(self) -> int:
        """Return how many lines were dropped at the limit since the last call."""
        with self._lock:
            dropped, self._dropped = self._dropped, 0
            return dropped

    def msg(self, line: str) -> None:
        """Write a line, now or as soon as the stream can take it."""
        data = f"{line}\n".encode(errors="backslashreplace")
        with self._lock:
            if not self._waiting and self._can_write_now(data):
                self._write(data)
            elif self._waiting_bytes + len(data) > MAX_WAITING_BYTES:
                self._dropped += 1
            else:
                self._enqueue(data)

    debug = info = warning = error = msg

    def _can_write_now(self, data: bytes) -> bool:
        """Whether writing can't block: a pipe that is ready for writing can take PIPE_BUF bytes."""
        return self._poll is None or (len(data) <= select.PIPE_BUF and bool(self._poll.poll(0)))

    def _enqueue(self, data: bytes) -> None:
        is_first = not self._waiting
        self._waiting.append(data)
        self._waiting_bytes += len(data)
        if is_first:
            try:
                threading.Thread(target=self._write_waiting, name=_THREAD, daemon=True).start()
            except RuntimeError:  # no thread can be started: this line is lost, and the next one tries again
                self._waiting.clear()
                self._waiting_bytes = 0

    def _write_waiting(self) -> None:
        """Write all waiting lines. A line counts as waiting until it is written, so one thread runs at a time."""
        data: bytes | None = self._waiting[0]
        while data is not None:
            self._write(data, self._poll)
            with self._lock:
                self._waiting.popleft()
                self._waiting_bytes -= len(data)
                data = self._waiting[0] if self._waiting else None

    def _write(self, data: bytes, poll: "select.poll | None" = None) -> None:
        # Past the stream's buffer: flushing that at exit must not wait for a write that hangs.
        with contextlib.suppress(OSError, ValueError):
            if self._descriptor is None:
                self.stream.write(data.decode())
                self.stream.flush()
            elif not self.stream.closed:
                rest = memoryview(data)
                while rest:
                    if poll is not None:
                        poll.poll()
                    rest = rest[os.write(self._descriptor, rest[: select.PIPE_BUF]) :]


def flush(timeout_s: float) -> None:
    """Wait until the waiting lines are written, at most so long; then the process may exit."""
    for thread in threading.enumerate():
        if thread.name == _THREAD:
            thread.join(timeout_s)


def _inspect(stream: TextIO) -> tuple[int | None, "select.poll | None"]:
    """Return the stream's descriptor, None without one, and a poll for it, None where writing never blocks for long."""
    try:
        descriptor = stream.fileno()
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return descriptor, None
    except (OSError, ValueError):
        return None, None
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return descriptor, poll
