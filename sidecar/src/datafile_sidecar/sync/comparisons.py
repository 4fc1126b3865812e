"""Says in words what a publication changed: after it, and beside the loops of the keys, which wait for nothing of this.

One pair of datafiles is compared at a time, in a thread. Pairs that wait are in memory, so there is a limit: beyond it, a change
stays without words.
"""

import asyncio
import hashlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from datafile_sidecar.core.difference import difference, summary
from datafile_sidecar.core.state import Version
from datafile_sidecar.observe.telemetry import Telemetry

_MAX_WAITING_BYTES = 16 * 1024 * 1024
_LINES_SHOWN = 5
_BYTES_SHOWN = 400
_LINES_LOGGED = 20
_BYTES_LOGGED = 4000


@dataclass(frozen=True, slots=True)
class Replacement:
    """One datafile that was replaced by another. `describe` is called with the words, as `/status` shows them."""

    sdk_key: str
    old: Version
    before: bytes = field(repr=False)
    new: Version
    after: bytes = field(repr=False)
    describe: Callable[[list[str]], None]

    @property
    def size(self) -> int:
        """How many bytes it holds."""
        return len(self.before) + len(self.after)


class Comparisons:
    """The pairs of datafiles that wait to be compared, of all keys."""

    def __init__(self, telemetry: Telemetry, on_described: Callable[[], None]) -> None:
        """`on_described` is called whenever a change has got its words."""
        self._telemetry = telemetry
        self._on_described = on_described
        self._waiting: deque[Replacement] = deque()
        self._has_work = asyncio.Event()

    def add(self, replacement: Replacement) -> None:
        """Compare these two when it is their turn, unless too many wait already."""
        if not self._waiting or sum(one.size for one in self._waiting) + replacement.size <= _MAX_WAITING_BYTES:
            self._waiting.append(replacement)
            self._has_work.set()

    async def run(self) -> None:
        """Compare for ever."""
        while True:
            await self._has_work.wait()
            while self._waiting:
                await self._compare(self._waiting.popleft())
            self._has_work.clear()

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
    """Compare a pair, None where the file that was replaced was not what this sidecar had put there."""
    if hashlib.sha256(pair.before).hexdigest() != pair.old.sha256:
        return None
    return difference(pair.before, pair.after)
