"""Reports to the sidecar which revision this process uses, over one connection to `sidecar.sock` that stays open.

The sidecar counts open connections as workers. Nothing here blocks, and no error here reaches the app.
"""

import contextlib
import json
import os
import secrets
import socket
import weakref
from pathlib import Path

_RETRY_S = 2.0
_ADDRESS_MAX = 107  # bytes of a Unix socket's address, without the final NUL


class RevisionReporter:
    """One process's connection. Belongs to the watcher thread; a forked child makes another."""

    def __init__(self, directory: Path, sdk_key: str) -> None:
        self._path = directory / "sidecar.sock"
        worker = {"id": secrets.token_hex(4), "pid": os.getpid(), "host": socket.gethostname()[:255]}
        self._message = {"v": 1, "sdk_key": sdk_key} | worker
        self._socket: socket.socket | None = None
        self._reported: int | None = None
        self._retry_at = float("-inf")
        _reporters.add(self)

    def update(self, revision: int, now: float) -> None:
        """Connect if need be, and send the revision if it has changed.

        Args:
            revision: the revision in use.
            now: the time on the monotonic clock, in seconds.
        """
        if self._socket is None and now < self._retry_at:
            return
        self._retry_at = now + _RETRY_S
        try:
            connection = self._socket or self._connect()
            if self._reported != revision:
                line = json.dumps(self._message | {"revision": revision}) + "\n"
                connection.send(line.encode(), socket.MSG_NOSIGNAL)
                self._reported = revision
            if not connection.recv(512):
                self.close()  # the sidecar has ended; the next call looks for its successor
        except BlockingIOError:
            # From recv: the connection is open, and the sidecar has sent nothing. Before any send: its backlog is full.
            if self._reported is None:
                self.close()
        except OSError:
            self.close()

    def close(self) -> None:
        """Close the connection, so that the sidecar no longer counts this process."""
        connection, self._socket, self._reported = self._socket, None, None
        if connection is not None:
            connection.close()

    def _connect(self) -> socket.socket:
        address = os.fsencode(self._path)
        with contextlib.ExitStack() as cleanup:
            if len(address) > _ADDRESS_MAX:
                parent = os.open(self._path.parent, os.O_PATH | os.O_CLOEXEC)
                cleanup.callback(os.close, parent)
                address = f"/proc/self/fd/{parent}/{self._path.name}".encode()
            # Assigned now, so that close() closes it if connect() fails.
            self._socket = connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.setblocking(False)
            connection.connect(address)
        return connection


_reporters: "weakref.WeakSet[RevisionReporter]" = weakref.WeakSet()


def _close_in_child() -> None:
    # The sidecar counts a dead parent as alive while any process holds a copy of its connection.
    for reporter in list(_reporters):
        reporter.close()


os.register_at_fork(after_in_child=_close_in_child)
