"""How much all keys of a sidecar do at the same time, and which key is next.

With hundreds of keys, waiting here replaces waiting for upstream, for memory and for a processor, all of which would hold up
what is urgent.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, TypeVar

from datafile_sidecar.core.state import State

T = TypeVar("T")
_STILL_WAITING_S: Final = 30.0


class Urgency(IntEnum):
    """Why a key needs a turn; the lowest value goes first."""

    ANNOUNCED = 0
    """A webhook named a revision of the key."""
    HINTED = 1
    """A webhook may concern the key."""
    ROUTINE = 2
    """A poll, or the start."""

    @classmethod
    def of(cls, state: State) -> "Urgency":
        """Return how urgent a fetch of this key is now."""
        if state.announced:
            return cls.ANNOUNCED
        return cls.HINTED if state.hint else cls.ROUTINE


class Turns:
    """A limited number of turns. The most urgent key is next, then the one that has waited longest."""

    def __init__(self, *, announced: int, hinted: int, routine: int, alike: int | None = None) -> None:
        """Set the limits: a key with this urgency begins while fewer turns than that are taken, whoever has them.

        With `alike`, it also begins only while fewer turns than that are taken with the same urgency.
        """
        self._limits = {Urgency.ANNOUNCED: announced, Urgency.HINTED: hinted, Urgency.ROUTINE: routine}
        self._alike = alike
        self._taken: list[Turn] = []
        self._waiting: list[Turn] = []

    async def run(
        self, urgency: Urgency, work: Callable[[], Awaitable[T]], meanwhile: Callable[[], None] = lambda: None
    ) -> T:
        """Wait for a turn, and do this work in it. `meanwhile` is called as by `take`."""
        turn = await self.take(urgency, meanwhile)
        try:
            return await work()
        finally:
            self.end(turn)

    async def take(self, urgency: Urgency, meanwhile: Callable[[], None] = lambda: None) -> "Turn":
        """Wait for a turn, which has to be ended.

        Args:
            urgency: What it is needed for.
            meanwhile: Called every 30 s of the wait, and at its end: waiting for others is not being stuck.
        """
        turn, has_come = Turn(), asyncio.Event()
        self.ask(turn, urgency, has_come.set)
        try:
            while not has_come.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_STILL_WAITING_S):
                        await has_come.wait()
                meanwhile()
        except BaseException:
            self.end(turn)
            raise
        return turn

    def ask(self, turn: "Turn", urgency: Urgency, on_come: Callable[[], None]) -> bool:
        """Tell whether a turn has come; else it waits, with this urgency from now on, and `on_come` is called then."""
        turn.urgency, turn.on_come = urgency, on_come
        if not turn.has_come and turn not in self._waiting:
            self._waiting.append(turn)
        self._give()
        return turn.has_come

    def end(self, turn: "Turn") -> None:
        """Take a turn back, or let it wait no longer."""
        if turn in self._waiting:
            self._waiting.remove(turn)
        if turn.has_come:
            self._taken.remove(turn)
            turn.has_come = False
        self._give()

    def _give(self) -> None:
        while self._waiting:
            turn = min(self._waiting, key=lambda waiting: waiting.urgency)  # the first of equals
            alike = sum(taken.urgency is turn.urgency for taken in self._taken)
            if len(self._taken) >= self._limits[turn.urgency] or alike == self._alike:
                return
            self._waiting.remove(turn)
            self._taken.append(turn)
            turn.has_come = True
            turn.on_come()


@dataclass(eq=False, slots=True)
class Turn:
    """One key's turn: asked for, had and ended, again and again."""

    urgency: Urgency = Urgency.ROUTINE
    has_come: bool = False
    on_come: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True)
class Capacity:
    """What all keys of a sidecar share. A webhook that names a revision waits for no poll and no start."""

    fetches: Turns = field(default_factory=lambda: Turns(announced=24, hinted=12, routine=8))
    """Requests to upstream, each until its datafile is published."""
    large_bodies: Turns = field(default_factory=lambda: Turns(announced=2, hinted=1, routine=1, alike=1))
    """Bodies in memory that are larger than `upstream.LARGE_BYTES`, until they are published. An announced one waits for no poll,
    and for other announced ones: two at a time take twice the memory, and are not faster."""
    validations: Turns = field(default_factory=lambda: Turns(announced=2, hinted=1, routine=1))
    """A validation takes several times the memory of its datafile, and more of them at a time are not faster. Compressing for the
    bus counts as one."""
