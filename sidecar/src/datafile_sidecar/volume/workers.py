"""Who in the pod decides by what: `sidecar.sock`, on which each process of the app keeps one connection open.

An open connection is a worker, however silent; a closed one is gone. What comes in is text from strangers: it is bounded,
parsed strictly, and moves nothing but this list.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

from datafile_sidecar.core import worker_message as worker
from datafile_sidecar.core.times import rfc3339
from datafile_sidecar.core.worker_message import MalformedLineError, Worker
from datafile_sidecar.observe.telemetry import Telemetry
from datafile_sidecar.volume.local_socket import inode, listen

NAME = "sidecar.sock"
MAX_WORKERS = 256
SETTLE_S = 10.0
"""How long workers get to come back to a new sidecar. They try every 2 s."""

_LOOK_S = 2.0
_FIRST_LINE_WITHIN_S = 5.0
_BREATH_S = 0.01  # between two reads of one connection, so that a process gone mad costs next to nothing

Published = Callable[[str], tuple[int | None, float | None]]


class Workers:
    """The socket and the connections on it."""

    def __init__(self, directory: Path, sdk_keys: Iterable[str], published: Published, telemetry: Telemetry) -> None:
        """`published` gives for an SDK key the revision on the volume and when it was renamed into place, in Unix seconds."""
        self._path = directory / NAME
        self._published = published
        self._telemetry = telemetry
        self._connections: dict[str, set[_Connection]] = {key: set() for key in sdk_keys}
        self._strangers: set[_Connection] = set()
        self._server: asyncio.Server | None = None
        self._inode: int | None = None
        self._problem: str | None = None
        self._settles_at = math.inf

    async def run(self) -> NoReturn:
        """See for ever that the socket is there, and is ours."""
        try:
            while True:
                await self._look_after_socket()
                await asyncio.sleep(_LOOK_S)
        finally:
            self._close()

    def of(self, sdk_key: str) -> list[dict[str, Any]]:
        """The workers of a key, as `/status` shows them."""
        return sorted((one.view() for one in self._connections[sdk_key]), key=lambda view: (view["host"], view["pid"]))

    def status(self) -> dict[str, Any]:
        """Whether there is a socket, and whether everybody who should be on the list had the time to get on it."""
        is_settled = _now() >= self._settles_at and not self._strangers
        return {
            "state": "off" if self._server is None else "on",
            "settled": self._server is not None and is_settled,
            "last_error": self._problem,
        }

    # The socket

    async def _look_after_socket(self) -> None:
        if self._server is not None and inode(self._path) == self._inode:
            return
        self._close()
        try:
            listener = await asyncio.to_thread(listen, self._path, MAX_WORKERS)
        except OSError as problem:
            words = f"{self._path} can't be listened on: {problem.strerror or problem}"
            if words != self._problem:
                self._telemetry.workers_unheard(words)
            self._problem = words
            return
        self._problem = None
        self._inode = inode(self._path)
        self._server = await asyncio.get_running_loop().create_unix_server(
            lambda: _Connection(self), sock=listener, backlog=MAX_WORKERS
        )
        self._wait_for_workers()

    def _close(self) -> None:
        if self._server is None:
            return
        self._server.close()
        self._server = None
        if inode(self._path) == self._inode:
            with contextlib.suppress(OSError):
                self._path.unlink()
        for connection in [*self._strangers, *(one for some in self._connections.values() for one in some)]:
            connection.close()

    def _wait_for_workers(self) -> None:
        """From now on somebody may be missing from the list; those who are will have come back by then."""
        self._settles_at = _now() + SETTLE_S

    # What connections say

    def opened(self, connection: "_Connection") -> bool:
        """Somebody has connected; whether there is room for them."""
        if len(self._strangers) + sum(map(len, self._connections.values())) >= MAX_WORKERS:
            self.refuse("too_many")
            return False
        self._strangers.add(connection)
        return True

    def heard(self, connection: "_Connection", said: Worker) -> bool:
        """A worker says who it is and what it decides by; whether it may stay."""
        if said.sdk_key not in self._connections:
            self._telemetry.worker_refused("unknown_key")
            return False
        before = connection.said
        if before and before.identity != said.identity:
            self.refuse("malformed")
            return False
        connection.said, connection.seen = said, time.time()
        if before is None:
            self._enlist(connection, said)
        elif said.revision != before.revision:
            self._note_applied(connection, said)
        self._count(said.sdk_key)
        return True

    def closed(self, connection: "_Connection") -> None:
        """A connection is gone, and with it its worker."""
        self._strangers.discard(connection)
        for key, connections in self._connections.items():
            if connection in connections:
                connections.remove(connection)
                self._count(key)

    def refuse(self, reason: str) -> None:
        """Somebody who may be a worker is not on the list."""
        self._telemetry.worker_refused(reason)
        self._wait_for_workers()

    def _enlist(self, connection: "_Connection", said: Worker) -> None:
        self._strangers.discard(connection)
        connections = self._connections[said.sdk_key]
        for other in [one for one in connections if one.said and one.said.identity == said.identity]:
            connections.remove(other)  # it has connected anew before its old connection was seen to end
            other.close()
        connections.add(connection)

    def _note_applied(self, connection: "_Connection", said: Worker) -> None:
        revision, published = self._published(said.sdk_key)
        if published is None or said.revision != revision or connection.measured == published:
            return
        connection.measured = published
        took_s = max(0.0, time.time() - published)
        named = {"revision": said.revision, "worker": said.id, "pid": said.pid, "host": said.host}
        self._telemetry.datafile_applied(said.sdk_key, named, took_s)

    def _count(self, sdk_key: str) -> None:
        connections = self._connections[sdk_key]
        revisions = [one.said.revision or 0 for one in connections if one.said]
        self._telemetry.workers_counted(sdk_key, len(connections), min(revisions, default=None))


class _Connection(asyncio.Protocol):
    """One connection: takes lines, of which the newest counts, and hangs up on what it does not understand."""

    def __init__(self, workers: Workers) -> None:
        self.said: Worker | None = None
        self.seen = 0.0
        self.measured: float | None = None
        self._workers = workers
        self._rest = b""
        self._transport: asyncio.Transport | None = None

    def view(self) -> dict[str, Any]:
        assert self.said
        return {
            "id": self.said.id,
            "pid": self.said.pid,
            "host": self.said.host,
            "revision": self.said.revision,
            "seen": rfc3339(self.seen),
        }

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if self._workers.opened(self):
            asyncio.get_running_loop().call_later(_FIRST_LINE_WITHIN_S, self._introduced)
        else:
            self.close()

    def data_received(self, data: bytes) -> None:
        assert self._transport
        self._transport.pause_reading()
        asyncio.get_running_loop().call_later(_BREATH_S, self._transport.resume_reading)
        try:
            said, self._rest = worker.newest(self._rest + data)
        except MalformedLineError:
            self._workers.refuse("malformed")
            self.close()
            return
        if said and not self._workers.heard(self, said):
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._workers.closed(self)

    def _introduced(self) -> None:
        if self.said is None and self._transport and not self._transport.is_closing():
            self._workers.refuse("silent")
            self.close()


def _now() -> float:
    return asyncio.get_running_loop().time()
