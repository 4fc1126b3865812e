"""The workers of the pod: the processes of the app that report on `sidecar.sock` which revision they use.

An open connection is a worker, even if it says nothing more; a closed one is gone. Input is untrusted text: it is bounded, parsed
strictly, and changes nothing but this list.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from datafile_sidecar.core import worker_message
from datafile_sidecar.core.worker_message import WorkerMessage
from datafile_sidecar.network.change_signal import ChangeSignal
from datafile_sidecar.observe.telemetry import Telemetry
from datafile_sidecar.volume.local_socket import inode, listen
from datafile_sidecar.volume.worker_connection import Report, WorkerConnection
from datafile_sidecar.volume.worker_presence import Presence, WorkerPresence

NAME = "sidecar.sock"
MAX_WORKERS = 256
_ACCEPTED_AT_ONCE = 4  # so that those to be refused take few file descriptors
SETTLE_S = 10.0
"""How long workers have to come back to a new sidecar. They try every 2 s."""

_LOOK_S = 2.0
_PID_SHIFT = 32


@dataclass(frozen=True, slots=True)
class _Published:
    revision: int | None = None
    sha256: str | None = None
    renamed_at: float | None = None


class Workers:
    """The socket and the connections on it. `changes` notes what `/status` shows otherwise from then on."""

    def __init__(
        self, directory: Path, sdk_keys: Iterable[str], telemetry: Telemetry, max_workers: int = MAX_WORKERS
    ) -> None:
        """Build the list, of at most so many workers; `run` opens the socket in the directory."""
        self.changes = ChangeSignal()
        self._path = directory / NAME
        self._telemetry = telemetry
        self._max_workers = max_workers
        self._published = {key: _Published() for key in sdk_keys}
        self._connections: set[WorkerConnection] = set()
        self._server: asyncio.Server | None = None
        self._inode: int | None = None
        self._problem: str | None = None
        self._settles_at = math.inf
        self._presence: WorkerPresence | None = None
        self._attention = asyncio.Event()

    async def run(self) -> NoReturn:
        """Keep the socket in its place, and the note to the next sidecar true, for ever."""
        try:
            while True:
                self._attention.clear()
                await self._ensure_socket()
                if self._presence is not None:
                    await self._presence.keep_note(is_settled=self._is_settled())
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_S):  # not wait_for, which loses a cancellation now and then
                        await self._attention.wait()
        finally:
            await self._close()

    def by_key(self) -> dict[str, list[dict[str, Any]]]:
        """Return the workers of each key, as `/status` shows them."""
        workers: dict[str, list[dict[str, Any]]] = {key: [] for key in self._published}
        for report in sorted(self._reports(), key=lambda report: (report.message.host, report.message.pid)):
            published = self._published[report.message.sdk_key]
            workers[report.message.sdk_key].append(report.view(published.revision, published.sha256))
        return workers

    async def status(self) -> dict[str, Any]:
        """Tell whether the list can be relied on, and name the processes that have a lock and no connection.

        `presence` says what it rests on: `locks`, or `connections` where a process has no lock, or `unknown`.
        """
        presence = await self._presence.view() if self._presence else Presence("connections")
        return {
            "state": "off" if self._server is None else "on",
            "settled": self._is_settled(),
            "presence": presence.rests_on,
            "unreported": [_named_by(offset) for offset in presence.unreported],
            "last_error": presence.problem or self._problem,
        }

    def published(self, sdk_key: str, revision: int, sha256: str, renamed_at: float | None) -> None:
        """Tell the workers what is published now, and measure those that use it already.

        A worker may report before this is called, for it sees the file as soon as it is renamed.

        Args:
            renamed_at: Seconds of `time.monotonic`; None where an earlier sidecar left it.
        """
        self._published[sdk_key] = _Published(revision, sha256, renamed_at)
        self._tell(sdk_key)
        for connection in self._connections:
            if report := connection.reports.get(sdk_key):
                self._measure(report)
        self.changes.notify()

    # The socket

    async def _ensure_socket(self) -> None:
        if self._server is not None and await self._is_in_place():
            return
        await self._close()
        try:
            self._presence = await WorkerPresence.open(self._path.parent, self._connections)
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

    async def _is_in_place(self) -> bool:
        return self._presence is not None and await self._presence.is_in_place() and await self._is_ours()

    async def _is_ours(self) -> bool:
        return await asyncio.to_thread(inode, self._path) == self._inode

    async def _close(self) -> None:
        if self._presence is not None:
            presence, self._presence = self._presence, None
            presence.close()
        if self._server is None:
            return
        self._server.close()
        self._server = None
        for connection in self._connections:
            connection.close()
        if await self._is_ours():
            with contextlib.suppress(OSError):
                await asyncio.to_thread(self._path.unlink)

    # Who there is

    def _is_settled(self) -> bool:
        """Tell whether all workers had the time to connect, or need none, because their locks show them."""
        is_vouched = self._presence is not None and self._presence.is_vouched
        has_waited = is_vouched or _now() >= self._settles_at
        return self._server is not None and has_waited and all(one.process for one in self._connections)

    # What connections report

    def opened(self, connection: WorkerConnection) -> bool:
        """Take a new connection, and tell it what is published; tell the caller whether there was a place for it."""
        if len(self._connections) >= self._max_workers:
            self.refuse("too_many")
            return False
        self._connections.add(connection)
        self.changes.notify()
        connection.tell(self._published)
        return True

    def received(self, connection: WorkerConnection, message: WorkerMessage) -> bool:
        """Take a worker's message; tell whether the connection may stay."""
        if message.sdk_key not in self._published:
            self._telemetry.worker_refused("unknown_key")
            return False
        if connection.process is None:
            self._attention.set()
        if not connection.is_of(message):
            self.refuse("malformed")
            return False
        self.changes.notify()
        if message.ended:
            connection.reports.pop(message.sdk_key, None)
            self._count(message.sdk_key)
            return True
        before = connection.reports.get(message.sdk_key)
        connection.reports[message.sdk_key] = report = Report(message)
        if before is None:
            self._drop_earlier(connection, message)
            self._tell_if_behind(connection, message)
        elif message.revision != before.message.revision:
            report.swapped_at, report.measured = time.monotonic(), before.measured
            self._measure(report)
        else:
            report.swapped_at, report.measured = before.swapped_at, before.measured
        if message.refused and not (before and before.message.refused == message.refused):
            self._telemetry.worker_datafile_refused(message.sdk_key, _worker(message), message.refused.reason)
        self._count(message.sdk_key)
        return True

    def closed(self, connection: WorkerConnection) -> None:
        """Remove a connection, and with it its worker."""
        self._connections.discard(connection)
        for sdk_key in connection.reports:
            self._count(sdk_key)
        self.changes.notify()

    def refuse(self, reason: str) -> None:
        """Count a refused connection: it may be a worker's that is missing from the list now."""
        self.changes.notify()
        self._telemetry.worker_refused(reason)
        self._settles_at = _now() + SETTLE_S
        if self._presence is not None:
            self._presence.is_vouched = False
        self._attention.set()

    def line(self, sdk_key: str) -> bytes:
        """Return the line that tells what is published now."""
        published = self._published[sdk_key]
        return worker_message.published_line(sdk_key, published.revision, published.sha256)

    def _tell(self, sdk_key: str) -> None:
        for connection in self._connections:
            if sdk_key in connection.reports:
                connection.tell([sdk_key])

    def _tell_if_behind(self, connection: WorkerConnection, message: WorkerMessage) -> None:
        """Tell what was published between the first lines of a connection and its first report of this key."""
        published = self._published[message.sdk_key]
        if not (published.sha256 or "").startswith(message.sha256 or "-"):
            connection.tell([message.sdk_key])

    def _reports(self) -> list[Report]:
        return [report for one in self._connections for report in one.reports.values()]

    def _drop_earlier(self, connection: WorkerConnection, message: WorkerMessage) -> None:
        """Hang up on the connection that the same process had before, whose end was not seen yet."""
        for other in list(self._connections):
            if other is not connection and other.process == message.process and message.sdk_key in other.reports:
                self._connections.remove(other)
                other.close()

    def _measure(self, report: Report) -> None:
        """Report how long a worker took to use what is published, once."""
        message, published = report.message, self._published[report.message.sdk_key]
        if report.swapped_at is None or published.renamed_at is None or message.revision != published.revision:
            return
        if report.measured == published.renamed_at or report.swapped_at < published.renamed_at:
            return
        report.measured = published.renamed_at
        worker = {"revision": message.revision} | _worker(message)
        self._telemetry.datafile_applied(message.sdk_key, worker, report.swapped_at - published.renamed_at)

    def _count(self, sdk_key: str) -> None:
        messages = [one.reports[sdk_key].message for one in self._connections if sdk_key in one.reports]
        oldest = min((message.revision or 0 for message in messages), default=None)
        refusing = sum(message.refused is not None for message in messages)
        self._telemetry.workers_counted(sdk_key, len(messages), oldest, refusing)


def _worker(message: WorkerMessage) -> dict[str, Any]:
    return {"worker": message.id, "pid": message.pid, "host": message.host}


def _named_by(offset: int) -> dict[str, Any]:
    """Return the process that chose this byte: our client puts its process id and its worker id into the offset."""
    return {"id": f"{offset % 2**_PID_SHIFT:08x}", "pid": offset >> _PID_SHIFT}


def _now() -> float:
    return asyncio.get_running_loop().time()
