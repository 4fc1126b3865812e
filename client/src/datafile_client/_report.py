"""The word to the sidecar: "this process decides by revision 43". One connection to `sidecar.sock`, kept open.

An open connection is what makes this process a worker in the sidecar's count, so it says little and stays. Nothing here blocks,
and nothing that goes wrong here reaches the app.
"""

import contextlib
import json
import os
import secrets
import socket
import weakref
from pathlib import Path

_RETRY_S = 2.0
_PATH_MAX = 107  # bytes that a Unix socket's address can hold


class Report:
    """One process's connection. Belongs to the thread that watches; made anew after a fork."""

    def __init__(self, directory: Path, sdk_key: str) -> None:
        self._path = directory / "sidecar.sock"
        name = {"id": secrets.token_hex(4), "pid": os.getpid(), "host": socket.gethostname()[:255]}
        self._words = {"v": 1, "sdk_key": sdk_key} | name
        self._socket: socket.socket | None = None
        self._said: int | None = None
        self._retry_at = float("-inf")
        _reports.add(self)

    def keep_up(self, revision: int, now: float) -> None:
        """See that there is a connection and that the sidecar knows this revision; `now` is on the monotonic clock."""
        if self._socket is None and now < self._retry_at:
            return
        self._retry_at = now + _RETRY_S
        try:
            connection = self._socket or self._connect()
            if self._said != revision:
                line = json.dumps(self._words | {"revision": revision}) + "\n"
                connection.send(line.encode(), socket.MSG_NOSIGNAL)
                self._said = revision
            if not connection.recv(512):
                self.close()  # the sidecar has gone; the next tick looks for its successor
        except BlockingIOError:
            if self._said is None:  # its backlog is full; otherwise it is open and has nothing to say
                self.close()
        except OSError:
            self.close()

    def close(self) -> None:
        """Stop being a worker."""
        connection, self._socket, self._said = self._socket, None, None
        if connection is not None:
            connection.close()

    def _connect(self) -> socket.socket:
        address = os.fsencode(self._path)
        with contextlib.ExitStack() as undo:
            if len(address) > _PATH_MAX:
                parent = os.open(self._path.parent, os.O_PATH | os.O_CLOEXEC)
                undo.callback(os.close, parent)
                address = f"/proc/self/fd/{parent}/{self._path.name}".encode()
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._socket = connection  # close() sees to it if what follows fails
            connection.setblocking(False)
            connection.connect(address)
        return connection


_reports: "weakref.WeakSet[Report]" = weakref.WeakSet()


def _close_in_child() -> None:
    # While any copy is open, a parent that has died still counts as alive. A child that uses the watcher gets one of its own.
    for report in list(_reports):
        report.close()


os.register_at_fork(after_in_child=_close_in_child)
