"""Which processes of the pod live: those that hold a lock on the directory, beside those that have a connection.

A process with a lock and no connection is a worker of which nothing else is known.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from datafile_sidecar.network.single_flight import SingleFlight
from datafile_sidecar.volume.directory_locks import DirectoryLocks, UnlistableError, UnsupportedError
from datafile_sidecar.volume.worker_connection import WorkerConnection


@dataclass(frozen=True, slots=True)
class Presence:
    """`rests_on` is `locks`, or `connections` where a process has no lock, or `unknown`: `problem` says why.

    `unreported` are the offsets of the locks of processes that have no connection.
    """

    rests_on: str
    unreported: tuple[int, ...] = ()
    problem: str | None = None


class WorkerPresence:
    """The locks on one directory, held against the connections; and the note for the next sidecar.

    `is_vouched`: the sidecar before this one noted that each of its workers held a lock, so those need no time to connect.
    """

    def __init__(self, locks: DirectoryLocks, connections: AbstractSet[WorkerConnection], *, is_vouched: bool) -> None:
        """Look at these locks and at these connections, as they are at each call."""
        self.is_vouched = is_vouched
        self._is_noted = is_vouched
        self._locks = locks
        self._connections = connections
        self._locked: set[WorkerConnection] = set()
        self._listing = SingleFlight(self._list, "locks of workers")

    @classmethod
    async def open(cls, directory: Path, connections: AbstractSet[WorkerConnection]) -> Self:
        """Open the directory.

        Raises:
            OSError: It can't be opened.
        """
        locks = await asyncio.to_thread(DirectoryLocks.open, directory)
        return cls(locks, connections, is_vouched=await asyncio.to_thread(locks.is_vouched))

    def close(self) -> None:
        """Close the directory."""
        self._locks.close()

    async def is_in_place(self) -> bool:
        """Tell whether the path still leads to this directory."""
        return await asyncio.to_thread(self._locks.is_in_place)

    async def view(self) -> Presence:
        """Ask the kernel who lives. Callers at the same time share the answer."""
        try:
            held = await self._listing.result()
        except UnsupportedError:
            return Presence("connections")
        except (UnlistableError, OSError) as reason:
            return Presence("unknown", problem=f"the processes of this pod can't be listed: {reason}")
        connected = Counter(one.lock for one in self._connections if one.lock is not None)
        unreported = tuple(sorted(held - connected.keys()))
        if any(count > 1 for count in connected.values()):
            problem = "two processes name the same lock, so one of them may be missing here"
            return Presence("unknown", unreported, problem)
        has_all = all(one.lock in held for one in self._connections if one.process)
        return Presence("locks" if has_all else "connections", unreported)

    async def keep_note(self, *, is_settled: bool) -> None:
        """Let the next sidecar know whether each of our workers holds a lock."""
        self._locked &= self._connections
        for one in self._connections - self._locked:
            if one.lock is not None and await asyncio.to_thread(self._locks.is_held, one.lock):
                self._locked.add(one)
        is_known = is_settled and self._locked >= self._connections
        if is_known != self._is_noted:
            with contextlib.suppress(OSError):  # a full or read-only volume: the next sidecar waits
                await asyncio.to_thread(self._locks.vouch if is_known else self._locks.disown)
                self._is_noted = is_known

    def _list(self) -> frozenset[int]:
        return self._locks.held([one.lock for one in list(self._connections) if one.lock is not None])
