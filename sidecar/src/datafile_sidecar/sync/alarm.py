"""The alarm of a loop: it wakes when something is due or has come, and knows whether the loop is idle or stuck."""

import asyncio
import contextlib
import math

_STUCK_AFTER_S = 90.0


class Alarm:
    """One loop's waiting. Times are those of the event loop, in seconds."""

    def __init__(self) -> None:
        """Begin awake; a loop that has not begun is not stuck."""
        self._woken = asyncio.Event()
        self._idle = asyncio.Event()
        self._stuck_at = math.inf

    @property
    def is_stuck(self) -> bool:
        """Whether the loop should have turned long ago."""
        return asyncio.get_running_loop().time() >= self._stuck_at

    def wake(self, *, busy: bool = False) -> None:
        """End the wait. `busy` tells at once that there is work, so that `idle` waits for it."""
        if busy:
            self._idle.clear()
        self._woken.set()

    def work(self) -> None:
        """Note that the loop does something now."""
        self._idle.clear()
        self._stuck_at = asyncio.get_running_loop().time() + _STUCK_AFTER_S

    async def wait(self, seconds: float, *, busy: bool = False) -> None:
        """Wait for so long, or until `wake`. The loop is idle meanwhile, unless it is busy: it waits to do something."""
        self._woken.clear()
        if not busy:
            self._idle.set()
        self._stuck_at = asyncio.get_running_loop().time() + seconds + _STUCK_AFTER_S
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None if math.isinf(seconds) else seconds):
                await self._woken.wait()

    async def idle(self) -> None:
        """Return when the loop has nothing to do."""
        await self._idle.wait()
