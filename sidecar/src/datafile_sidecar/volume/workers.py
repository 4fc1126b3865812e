"""The workers of the pod: the processes of the app that report on `sidecar.sock` by which revision they decide.

An open connection is a worker, even if it says nothing more; a closed one is gone. Input is untrusted text: it is bounded, parsed
strictly, and changes nothing but this list.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

from datafile_sidecar.core import worker_message
from datafile_sidecar.core.times import rfc3339
from datafile_sidecar.core.worker_message import MalformedLineError, WorkerMessage
from datafile_sidecar.observe.telemetry import Telemetry
from datafile_sidecar.volume.local_socket import inode, listen

NAME = "sidecar.sock"
MAX_WORKERS = 256
SETTLE_S = 10.0
"""How long workers have to come back to a new sidecar. They try every 2 s."""

_LOOK_S = 2.0
_FIRST_LINE_WITHIN_S = 5.0
_READ_PAUSE_S = 0.01  # between two reads of one connection, so that a process that writes without end costs little


class Workers:
    """The socket and the connections on it."""

    def __init__(self, directory: Path, sdk_keys: Iterable[str], telemetry: Telemetry) -> None:
        """Build the list; `run` opens the socket in the directory."""
        self._path = directory / NAME
        self._telemetry = telemetry
        self._published: dict[str, tuple[int, float]] = {}
        self._connections: dict[str, set[WorkerConnection]] = {key: set() for key in sdk_keys}
        self._unidentified: set[WorkerConnection] = set()
        self._server: asyncio.Server | None = None
        self._inode: int | None = None
        self._problem: str | None = None
        self._settles_at = math.inf

    async def run(self) -> NoReturn:
        """Keep the socket in its place, for ever."""
        try:
            while True:
                await self._ensure_socket()
                await asyncio.sleep(_LOOK_S)
        finally:
            await self._close()

    def of(self, sdk_key: str) -> list[dict[str, Any]]:
        """Return the workers of a key, as `/status` shows them."""
        return sorted((one.view() for one in self._connections[sdk_key]), key=lambda view: (view["host"], view["pid"]))

    def status(self) -> dict[str, Any]:
        """Tell whether the list can be relied on: there is a socket, and all workers had the time to connect."""
        is_settled = _now() >= self._settles_at and not self._unidentified
        return {
            "state": "off" if self._server is None else "on",
            "settled": self._server is not None and is_settled,
            "last_error": self._problem,
        }

    def published(self, sdk_key: str, revision: int, renamed_at: float) -> None:
        """Note that a revision was renamed into place, and measure the workers that decide by it already.

        A worker may report before this is called: it sees the file as soon as it is renamed, and the directory is synced later.

        Args:
            renamed_at: Seconds of `time.monotonic`.
        """
        self._published[sdk_key] = revision, renamed_at
        for connection in self._connections[sdk_key]:
            self._measure(connection)

    # The socket

    async def _ensure_socket(self) -> None:
        if self._server is not None and await self._is_ours():
            return
        await self._close()
        try:
            listener = await asyncio.to_thread(listen, self._path, MAX_WORKERS)
        except OSError as problem:
            reason = f"{self._path} can't be listened on: {problem.strerror or problem}"
            if reason != self._problem:
                self._telemetry.workers_unheard(reason)
            self._problem = reason
            return
        self._problem = None
        self._inode = await asyncio.to_thread(inode, self._path)
        self._server = await asyncio.get_running_loop().create_unix_server(
            lambda: WorkerConnection(self), sock=listener, backlog=MAX_WORKERS
        )
        self._unsettle()

    async def _is_ours(self) -> bool:
        return await asyncio.to_thread(inode, self._path) == self._inode

    async def _close(self) -> None:
        if self._server is None:
            return
        self._server.close()
        self._server = None
        connections = [*self._unidentified, *(one for some in self._connections.values() for one in some)]
        for connection in connections:
            connection.close()
        if await self._is_ours():
            with contextlib.suppress(OSError):
                await asyncio.to_thread(self._path.unlink)

    def _unsettle(self) -> None:
        """Begin to wait: from now on a worker may be missing from the list."""
        self._settles_at = _now() + SETTLE_S

    # What connections report

    def opened(self, connection: "WorkerConnection") -> bool:
        """Take a new connection; tell whether there was a place for it."""
        if len(self._unidentified) + sum(map(len, self._connections.values())) >= MAX_WORKERS:
            self.refuse("too_many")
            return False
        self._unidentified.add(connection)
        return True

    def received(self, connection: "WorkerConnection", message: WorkerMessage) -> bool:
        """Take a worker's message; tell whether the connection may stay."""
        if message.sdk_key not in self._connections:
            self._telemetry.worker_refused("unknown_key")
            return False
        before = connection.message
        if before and before.identity != message.identity:
            self.refuse("malformed")
            return False
        connection.message, connection.seen = message, time.time()
        if before is None:
            self._identify(connection, message)
        elif message.revision != before.revision:
            connection.swapped_at = time.monotonic()
            self._measure(connection)
        self._count(message.sdk_key)
        return True

    def closed(self, connection: "WorkerConnection") -> None:
        """Remove a connection, and with it its worker."""
        self._unidentified.discard(connection)
        for key, connections in self._connections.items():
            if connection in connections:
                connections.remove(connection)
                self._count(key)

    def refuse(self, reason: str) -> None:
        """Count a refused connection: it may be a worker's that is missing from the list now."""
        self._telemetry.worker_refused(reason)
        self._unsettle()

    def _identify(self, connection: "WorkerConnection", message: WorkerMessage) -> None:
        self._unidentified.discard(connection)
        connections = self._connections[message.sdk_key]
        for other in [one for one in connections if one.message and one.message.identity == message.identity]:
            connections.remove(other)  # it has connected again before the end of its old connection was seen
            other.close()
        connections.add(connection)

    def _measure(self, connection: "WorkerConnection") -> None:
        """Report how long a worker took to decide by what is published, once."""
        message, swapped_at = connection.message, connection.swapped_at
        if message is None or swapped_at is None or message.sdk_key not in self._published:
            return
        revision, renamed_at = self._published[message.sdk_key]
        if message.revision != revision or connection.measured == renamed_at or swapped_at < renamed_at:
            return
        connection.measured = renamed_at
        worker = {"revision": revision, "worker": message.id, "pid": message.pid, "host": message.host}
        self._telemetry.datafile_applied(message.sdk_key, worker, swapped_at - renamed_at)

    def _count(self, sdk_key: str) -> None:
        connections = self._connections[sdk_key]
        revisions = [one.message.revision or 0 for one in connections if one.message]
        self._telemetry.workers_counted(sdk_key, len(connections), min(revisions, default=None))


class WorkerConnection(asyncio.Protocol):
    """One connection: takes lines, of which the newest counts, and hangs up on a line that it can't parse."""

    def __init__(self, workers: Workers) -> None:
        """Report to this list."""
        self.message: WorkerMessage | None = None
        self.seen = 0.0
        self.swapped_at: float | None = None
        self.measured: float | None = None
        self._workers = workers
        self._rest = b""
        self._transport: asyncio.Transport | None = None

    def view(self) -> dict[str, Any]:
        """Return the worker, as `/status` shows it."""
        assert self.message
        return {
            "id": self.message.id,
            "pid": self.message.pid,
            "host": self.message.host,
            "revision": self.message.revision,
            "seen": rfc3339(self.seen),
        }

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin: the first line has to come soon."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if self._workers.opened(self):
            asyncio.get_running_loop().call_later(_FIRST_LINE_WITHIN_S, self._check_identified)
        else:
            self.close()

    def data_received(self, data: bytes) -> None:
        """Take the newest whole line."""
        assert self._transport
        self._transport.pause_reading()
        asyncio.get_running_loop().call_later(_READ_PAUSE_S, self._transport.resume_reading)
        try:
            message, self._rest = worker_message.newest(self._rest + data)
        except MalformedLineError:
            self._workers.refuse("malformed")
            self.close()
            return
        if message and not self._workers.received(self, message):
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._workers.closed(self)

    def _check_identified(self) -> None:
        if self.message is None and self._transport and not self._transport.is_closing():
            self._workers.refuse("silent")
            self.close()


def _now() -> float:
    return asyncio.get_running_loop().time()
