"""Durations without the time for which other load on the machine held things up, so that it fails no test."""

import asyncio
import os
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Stopwatch:
    """Measures from its creation how long some processes take, this one among them.

    Time in which they were ready to run but had no processor is not counted, up to the time that all processors together spent
    on other processes. So where nothing else runs all time counts, and a bound means what it says. Without Linux, all time counts.
    """

    def __init__(self, *pids: int) -> None:
        self._began = time.monotonic()
        self._busy_s = _busy_s()
        self._first = {pid: _usage(pid) for pid in {os.getpid(), *pids}}
        self._last = dict(self._first)

    async def watch(self, ending: Coroutine[Any, Any, T]) -> T:
        """Wait for this while the processes may end, and keep the last that is known of them; its result."""
        task = asyncio.ensure_future(ending)
        try:
            while not task.done():
                self.held_up_s()
                await asyncio.wait({task}, timeout=0.01)
        finally:
            task.cancel()
        return task.result()

    def seconds(self, *started: int) -> float:
        """Return the time that counts; `started` are the ids of processes that were started since."""
        return time.monotonic() - self._began - self.held_up_s(*started)

    def held_up_s(self, *started: int) -> float:
        """Return the time that does not count. Of a process that has ended, the last reading is used: see `watch`."""
        for pid in {*self._last, *started}:
            self._last[pid] = _usage(pid) or self._last.get(pid, _Usage())
        used = [self._last[pid] - self._first.get(pid, _Usage()) for pid in self._last]
        others_s = _busy_s() - self._busy_s - sum(one.ran_s for one in used)
        # A thread that has ended counts no more, which may make its process's part too small, or negative.
        waited_s = sum(one.waited_s for one in used)
        return max(0.0, min(others_s / (os.cpu_count() or 1), waited_s))


@dataclass(frozen=True, slots=True)
class _Usage:
    """How long the threads of a process have run, and have waited for a processor."""

    ran_s: float = 0.0
    waited_s: float = 0.0

    def __sub__(self, earlier: "_Usage") -> "_Usage":
        return _Usage(self.ran_s - earlier.ran_s, self.waited_s - earlier.waited_s)

    def __bool__(self) -> bool:
        return self.ran_s > 0


def _usage(pid: int) -> _Usage:
    """Return the usage so far; nothing where it is unknown."""
    ran_ns = waited_ns = 0
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/schedstat") as file:
                ran, waited, _ = map(int, file.read().split())
            ran_ns, waited_ns = ran_ns + ran, waited_ns + waited
    except OSError:
        return _Usage()
    return _Usage(ran_ns / 1e9, waited_ns / 1e9)


def _busy_s() -> float:
    """Return how long all processors were busy so far, or taken by a hypervisor; nothing where it is unknown."""
    try:
        with open("/proc/stat") as file:
            user, nice, system, _idle, _iowait, irq, softirq, steal, *_ = map(int, file.readline().split()[1:])
    except OSError:
        return 0.0
    return (user + nice + system + irq + softirq + steal) / _TICKS_PER_S
