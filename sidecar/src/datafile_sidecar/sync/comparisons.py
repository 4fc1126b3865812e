"""Says in words what a publication changed: after it, and beside the loops of the keys, which wait for nothing of this.

One pair of datafiles is compared at a time, in a thread. Those that wait are files that are held open, and on the volume; there
is a limit, beyond which the oldest changes stay without words. Large ones are read when no other large body is in memory.
"""

import asyncio
import hashlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from datafile_sidecar.core.difference import difference, summary
from datafile_sidecar.core.state import Version
from datafile_sidecar.network.turns import Capacity, Urgency
from datafile_sidecar.observe.telemetry import Telemetry
from datafile_sidecar.upstream import LARGE_BYTES
from datafile_sidecar.volume.held_file import Replaced

_MAX_WAITING = 64
_MAX_WAITING_BYTES = 4 * 1024 * 1024
_LINES_SHOWN = 5
_BYTES_SHOWN = 400
_LINES_LOGGED = 20
_BYTES_LOGGED = 4000


@dataclass(frozen=True, slots=True)
class Replacement:
    """One datafile that was replaced by another. `describe` is called with the words, as `/status` shows them."""

    sdk_key: str
    old: Version
    new: Version
    files: Replaced
    describe: Callable[[list[str]], None]


class Comparisons:
    """The pairs of datafiles that wait to be compared, of all keys."""

    def __init__(self, telemetry: Telemetry, on_described: Callable[[], None], capacity: Capacity) -> None:
        """Build it; `run` does the work.

        Args:
            on_described: Called whenever a change has got its words.
            capacity: What the loops of the keys share: large pairs wait until none of them has much in memory.
        """
        self._telemetry = telemetry
        self._on_described = on_described
        self._capacity = capacity
        self._waiting: deque[Replacement] = deque()
        self._has_work = asyncio.Event()

    def add(self, replacement: Replacement) -> None:
        """Compare these two when it is their turn. Where too many wait, the oldest are left out: people ask for the newest."""
        self._waiting.append(replacement)
        while len(self._waiting) > _MAX_WAITING or (
            len(self._waiting) > 1 and self._waiting_bytes > _MAX_WAITING_BYTES
        ):
            self._waiting.popleft()
        self._has_work.set()

    @property
    def _waiting_bytes(self) -> int:
        return sum(one.files.before.size for one in self._waiting)

    async def run(self) -> None:
        """Compare for ever."""
        while True:
            await self._has_work.wait()
            while self._waiting:
                if max(self._waiting[0].files.before.size, self._waiting[0].files.after.size) > LARGE_BYTES:
                    await self._wait_for_memory()
                await self._compare(self._waiting.popleft())
            self._has_work.clear()

    async def _wait_for_memory(self) -> None:
        """Wait for a turn of the lowest urgency, and give it back at once, so that nobody who publishes waits for this."""
        for turns in (self._capacity.large_bodies, self._capacity.validations):
            turns.end(await turns.take(Urgency.ROUTINE))

    async def _compare(self, pair: Replacement) -> None:
        try:
            lines = await asyncio.to_thread(_lines, pair)
        except Exception as error:  # whatever it is, it must not end a sidecar that publishes well
            self._telemetry.comparison_failed(pair.sdk_key, pair.new.revision, repr(error))
            return
        if lines is None:
            return
        pair.describe(summary(lines, max_lines=_LINES_SHOWN, max_bytes=_BYTES_SHOWN))
        what = summary(lines, max_lines=_LINES_LOGGED, max_bytes=_BYTES_LOGGED)
        self._telemetry.datafile_changed(pair.sdk_key, revision=pair.new.revision, before=pair.old.revision, what=what)
        self._on_described()


def _lines(pair: Replacement) -> list[str] | None:
    """Compare a pair, None where a file is not what this sidecar had put there."""
    before, after = pair.files.before.read(), pair.files.after.read()
    if [hashlib.sha256(body).hexdigest() for body in (before, after)] != [pair.old.sha256, pair.new.sha256]:
        return None
    return difference(before, after)
