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
_ACCEPTED_AT_ONCE = 4  # so that those to be refused take few file descriptors
SETTLE_S = 10.0
"""How long workers have to come back to a new sidecar. They try every 2 s."""

_LOOK_S = 2.0
_FIRST_LINE_WITHIN_S = 5.0
_READ_PAUSE_S = 0.01  # between two reads of one connection, so that a process that writes without end costs little


class Workers:
    """The socket and the connections on it."""

    def __init__(
        self, directory: Path, sdk_keys: Iterable[str], telemetry: Telemetry, max_workers: int = MAX_WORKERS
    ) -> None:
        """Build the list, of at most so many workers; `run` opens the socket in the directory."""
        self._path = directory / NAME
        self._sdk_keys = frozenset(sdk_keys)
        self._telemetry = telemetry
        self._max_workers = max_workers
        self._published: dict[str, tuple[int, float]] = {}
        self._connections: set[WorkerConnection] = set()
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

    def by_key(self) -> dict[str, list[dict[str, Any]]]:
        """Return the workers of each key, as `/status` shows them."""
        workers: dict[str, list[dict[str, Any]]] = {key: [] for key in self._sdk_keys}
        for one, message in sorted(self._identified(), key=lambda worker: (worker[1].host, worker[1].pid)):
            workers[message.sdk_key].append(one.view(message))
        return workers

    def status(self) -> dict[str, Any]:
        """Tell whether the list can be relied on: there is a socket, and all workers had the time to connect."""
        is_settled = _now() >= self._settles_at and all(one.message for one in self._connections)
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
        for connection, message in self._identified():
            self._measure(connection, message)

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
            lambda: WorkerConnection(self), sock=listener, backlog=_ACCEPTED_AT_ONCE
        )
        listener.listen(MAX_WORKERS)
        self._settles_at = _now() + SETTLE_S

    async def _is_ours(self) -> bool:
        return await asyncio.to_thread(inode, self._path) == self._inode

    async def _close(self) -> None:
        if self._server is None:
            return
        self._server.close()
        self._server = None
        for connection in self._connections:
            connection.close()
        if await self._is_ours():
            with contextlib.suppress(OSError):
                await asyncio.to_thread(self._path.unlink)

    # What connections report

    def opened(self, connection: "WorkerConnection") -> bool:
        """Take a new connection; tell whether there was a place for it."""
        if len(self._connections) >= self._max_workers:
            self.refuse("too_many")
            return False
        self._connections.add(connection)
        return True

    def received(self, connection: "WorkerConnection", message: WorkerMessage) -> bool:
        """Take a worker's message; tell whether the connection may stay."""
        if message.sdk_key not in self._sdk_keys:
            self._telemetry.worker_refused("unknown_key")
            return False
        before = connection.message
        if before and before.identity != message.identity:
            self.refuse("malformed")
            return False
        connection.message, connection.seen = message, time.time()
        if before is None:
            self._drop_earlier(connection, message)
        elif message.revision != before.revision:
            connection.swapped_at = time.monotonic()
            self._measure(connection, message)
        self._count(message.sdk_key)
        return True

    def closed(self, connection: "WorkerConnection") -> None:
        """Remove a connection, and with it its worker."""
        self._connections.discard(connection)
        if connection.message:
            self._count(connection.message.sdk_key)

    def refuse(self, reason: str) -> None:
        """Count a refused connection: it may be a worker's that is missing from the list now."""
        self._telemetry.worker_refused(reason)
        self._settles_at = _now() + SETTLE_S

    def _identified(self) -> list[tuple["WorkerConnection", WorkerMessage]]:
        return [(one, one.message) for one in self._connections if one.message]

    def _drop_earlier(self, connection: "WorkerConnection", message: WorkerMessage) -> None:
        """Hang up on the connection that the same worker had before, whose end was not seen yet."""
        for other, earlier in self._identified():
            if other is not connection and earlier.identity == message.identity:
                self._connections.remove(other)
                other.close()

    def _measure(self, connection: "WorkerConnection", message: WorkerMessage) -> None:
        """Report how long a worker took to decide by what is published, once."""
        swapped_at = connection.swapped_at
        if swapped_at is None or message.sdk_key not in self._published:
            return
        revision, renamed_at = self._published[message.sdk_key]
        if message.revision != revision or connection.measured == renamed_at or swapped_at < renamed_at:
            return
        connection.measured = renamed_at
        worker = {"revision": revision, "worker": message.id, "pid": message.pid, "host": message.host}
        self._telemetry.datafile_applied(message.sdk_key, worker, swapped_at - renamed_at)

    def _count(self, sdk_key: str) -> None:
        revisions = [message.revision or 0 for _, message in self._identified() if message.sdk_key == sdk_key]
        self._telemetry.workers_counted(sdk_key, len(revisions), min(revisions, default=None))


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
        self._transport: asyncio.Transport

    def view(self, message: WorkerMessage) -> dict[str, Any]:
        """Return the worker, as `/status` shows it."""
        worker = {"id": message.id, "pid": message.pid, "host": message.host, "revision": message.revision}
        return worker | {"seen": rfc3339(self.seen)}

    def close(self) -> None:
        """Hang up."""
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
        if self.message is None and not self._transport.is_closing():
            self._workers.refuse("silent")
            self.close()


def _now() -> float:
    return asyncio.get_running_loop().time()
