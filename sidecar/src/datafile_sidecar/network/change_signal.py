"""Wakes the coroutines that wait for a change of the status, and numbers the changes."""

import asyncio
import contextlib
import secrets


class ChangeSignal:
    """Of one process and one event loop. `version` is another after each change, and at each start of the process."""

    def __init__(self) -> None:
        """Begin with a version that no earlier process has had."""
        self.version = secrets.randbits(48)
        self._event = asyncio.Event()

    def notify(self) -> None:
        """Note a change."""
        self.version += 1
        self._event.set()
        self._event.clear()

    async def wait(self, version: int, timeout_s: float) -> None:
        """Return once the version is another than this one, or after so many seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self.version == version:
                    await self._event.wait()
