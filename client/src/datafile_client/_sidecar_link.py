"""The connection to the sidecar, by `sidecar.sock`: it tells which revision this process uses, and hears of each new one.

A sidecar that tells what it publishes begins with a line for each SDK key that it serves. It takes the reports of all keys on one
connection; an older one wants a connection for each key, and says nothing. Nothing here blocks, and no error here reaches the app.
"""

import contextlib
import json
import os
import secrets
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datafile_client._descriptors import close_in_children, opening
from datafile_client._directory_watch import SOCKET
from datafile_client._presence_lock import PresenceLock

_RETRY_S = 2.0
_RETRY_FIRST_S = 0.1
_STABLE_S = 5.0
_FIRST_LINE_WITHIN_S = 0.5
_LINE_MAX = 512
_READ_MAX = 65536
_ADDRESS_MAX = 107  # bytes of a Unix socket's address, without the final NUL
_DIGEST_CHARS = 16
_PID_SHIFT = 32


@dataclass(frozen=True, slots=True)
class Report:
    """What a process uses of one SDK key, None for nothing yet; and the datafile that it can't use, by its digest, and why."""

    revision: int | None = None
    sha256: str | None = None
    refused: str | None = None
    refused_sha256: str | None = None


class SidecarLink:
    """All that one process tells the sidecar of one directory. Belongs to one thread at a time."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        pid, worker = os.getpid(), secrets.token_bytes(4)
        self._about = {"id": worker.hex(), "pid": pid, "host": _clean(socket.gethostname())[:255]}
        self._lock = PresenceLock(directory, pid << _PID_SHIFT | int.from_bytes(worker))
        self._connections: list[_Connection] = []
        self._retry_at = float("-inf")
        self._retry_s = _RETRY_FIRST_S
        self._served: frozenset[str] = frozenset()

    @property
    def is_told(self) -> bool:
        """Whether the sidecar tells what it publishes."""
        return any(connection.served for connection in self._connections)

    def is_new(self, now: float) -> bool:
        """Tell whether the sidecar may be about to show that it tells what it publishes."""
        return any(not one.served and now < one.since + _FIRST_LINE_WITHIN_S for one in self._connections[:1])

    def sockets(self) -> list[socket.socket]:
        """Return what becomes readable when there is something to `read`."""
        return [connection.socket for connection in self._connections if connection.socket]

    def update(self, reports: Mapping[str, Report], now: float) -> None:
        """Connect if need be, and send what has changed.

        Args:
            reports: by SDK key, all that this process uses.
            now: the time on the monotonic clock, in seconds.
        """
        if not reports or (self._lock.is_held and not self._lock.is_in_place()):
            self.close()
        for connection, sdk_keys in self._shares(reports, now):
            try:
                connection.send({key: reports[key] for key in sdk_keys})
            except OSError:
                self._drop(connection, now)
                return

    def read(self, now: float) -> set[str]:
        """Return the SDK keys of which the sidecar has announced something."""
        announced = set[str]()
        for connection in list(self._connections):
            if connection not in self._connections:  # it ended with the first one
                continue
            try:
                announced |= connection.read()
            except (OSError, ValueError, RecursionError):
                self._drop(connection, now)
            else:
                self._served |= connection.served
        return announced

    def retry(self) -> None:
        """Connect without a pause: there is a new socket."""
        self._retry_at = float("-inf")

    def close(self) -> None:
        """End, so that the sidecar no longer counts this process."""
        for connection in self._connections:
            connection.close()
        self._connections = []
        self._lock.close()

    abandon = close

    def _shares(self, reports: Mapping[str, Report], now: float) -> "list[tuple[_Connection, Iterable[str]]]":
        """Return which connection reports which keys. New connections are made for it."""
        self._close([one for one in self._connections if not one.served and one.sdk_key not in reports])
        if not reports or not (self._connections or self._connect(self._first(reports), now)):
            return []
        first = self._connections[0]
        shared = reports.keys() & (first.served | {first.sdk_key})
        alone = reports.keys() - shared
        self._close([one for one in self._connections[1:] if one.sdk_key not in alone])
        if not self.is_new(now):
            for sdk_key in alone - {one.sdk_key for one in self._connections}:
                if not self._connect(sdk_key, now):
                    break
        return [(first, shared), *((one, {one.sdk_key}) for one in self._connections[1:])]

    def _first(self, reports: Iterable[str]) -> str:
        """Return a key to begin with: one that the sidecar served when it was last heard, if there is one."""
        keys = sorted(reports)
        return next((key for key in keys if key in self._served), keys[0])

    def _connect(self, sdk_key: str, now: float) -> bool:
        if now < self._retry_at:
            return False
        lock = self._lock.offset if not self._connections and (self._lock.is_held or self._lock.acquire()) else None
        about = self._about if lock is None else self._about | {"lock": lock}
        connection = _Connection(about, sdk_key, now)
        self._connections.append(connection)
        try:
            connection.open(self._directory / SOCKET)
        except (OSError, RuntimeError):  # RuntimeError: sockets are forbidden
            self._drop(connection, now)
            return False
        return True

    def _drop(self, connection: "_Connection", now: float) -> None:
        # Soon again after the end of a sidecar; ever later where it is missing, or does not take what we say.
        is_stable = now - connection.since > _STABLE_S
        self._retry_s = _RETRY_FIRST_S if is_stable else min(2 * self._retry_s, _RETRY_S)
        self._retry_at = now + self._retry_s
        # The others are only there because the first one is.
        self._close(list(self._connections) if connection in self._connections[:1] else [connection])

    def _close(self, connections: "Iterable[_Connection]") -> None:
        for one in connections:
            one.close()
            if one in self._connections:
                self._connections.remove(one)


class _Connection:
    """One connection. `served` are the keys that the sidecar has named; it begins with one key of ours."""

    def __init__(self, about: Mapping[str, Any], sdk_key: str, now: float) -> None:
        self.sdk_key = sdk_key
        self.since = now
        self.served: frozenset[str] = frozenset()
        self.socket: socket.socket | None = None
        self._about = about
        self._sent: dict[str, Report] = {}
        self._unsent = b""
        self._unread = b""

    def open(self, path: Path) -> None:
        """Connect. Raises OSError where that can't be done at once."""
        address = os.fsencode(path)
        os.stat(path)  # an app's tests may forbid sockets: none is made where there is no sidecar
        with opening(), contextlib.ExitStack() as cleanup:
            self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            close_in_children(self)
            self.socket.setblocking(False)
            if len(address) > _ADDRESS_MAX:
                parent = os.open(path.parent, os.O_PATH | os.O_CLOEXEC)
                cleanup.callback(os.close, parent)
                address = f"/proc/self/fd/{parent}/{path.name}".encode()
            self.socket.connect(address)

    def send(self, reports: Mapping[str, Report]) -> None:
        """Send the reports that have changed, and the end of those that are missing now. Raises OSError."""
        for sdk_key in self._sent.keys() - reports.keys():
            self._unsent += self._line(sdk_key, Report(), {"ended": True})
            del self._sent[sdk_key]
        for sdk_key, report in reports.items():
            if self._sent.get(sdk_key) != report:
                self._unsent += self._line(sdk_key, report, {})
                self._sent[sdk_key] = report
        with contextlib.suppress(BlockingIOError):
            while self._unsent and self.socket:
                self._unsent = self._unsent[self.socket.send(self._unsent, socket.MSG_NOSIGNAL) :]

    def read(self) -> set[str]:
        """Return the keys of the lines that have come. Raises OSError when the sidecar has ended, ValueError for other lines."""
        try:
            data = self.socket.recv(_READ_MAX) if self.socket else b""
        except BlockingIOError:
            return set()
        if not data:
            raise ConnectionResetError
        *lines, self._unread = (self._unread + data).split(b"\n")
        if len(self._unread) > _READ_MAX:
            raise ValueError("a line without end")
        announced = {
            str(line["sdk_key"]) for line in map(json.loads, lines) if isinstance(line, dict) and "sdk_key" in line
        }
        self.served |= announced
        return announced

    def close(self) -> None:
        """Close it."""
        if self.socket:
            self.socket.close()

    abandon = close

    def _line(self, sdk_key: str, report: Report, more: Mapping[str, Any]) -> bytes:
        """Return one line. What is too long for it is cut: the reason first, then the host."""
        sha256 = report.sha256 and report.sha256[:_DIGEST_CHARS]
        line = {"v": 1, "sdk_key": sdk_key, **self._about, "revision": report.revision, "sha256": sha256, **more}
        host, reason = self._about["host"], report.refused and _clean(report.refused)[:_LINE_MAX]
        while True:
            if reason is not None:
                digest = report.refused_sha256 and report.refused_sha256[:_DIGEST_CHARS]
                line["refused"] = {"reason": reason, "sha256": digest}
            encoded = json.dumps(line | {"host": host}, separators=(",", ":")).encode() + b"\n"
            if (excess := len(encoded) - _LINE_MAX) <= 0 or not (reason or host):
                return encoded
            shorter = -max(1, excess // 6)  # a character takes up to six bytes, or twice as many
            reason, host = (reason[:shorter], host) if reason else (reason, host[:shorter])


def _clean(text: str) -> str:
    """Escape what is no text."""
    return text.encode("utf-8", "backslashreplace").decode()
