"""The bytes on all connections to one broker: as long as they move, it is slow and not lost."""

import asyncio
from asyncio import StreamWriter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final
from weakref import WeakSet

from datafile_sidecar.bus.broker import ANSWER_WITHIN_S

_AT_MOST_S: Final = 60.0
_LOOK_EVERY_S: Final = 0.5


class Traffic:
    """Counts what moves, for time limits that wait for a long value on a narrow line."""

    def __init__(self) -> None:
        self._received = 0
        self._writers: WeakSet[StreamWriter] = WeakSet()

    def opened(self, writer: StreamWriter) -> None:
        """Watch what this connection has still to send."""
        self._writers.add(writer)

    def received(self, count: int) -> None:
        """Count so many bytes of a long value. Short answers don't count: those to pings come on other connections, too."""
        self._received += count

    @asynccontextmanager
    async def time_limit(self) -> AsyncIterator[None]:
        """Implement `Broker.time_limit`."""
        async with asyncio.timeout(ANSWER_WITHIN_S) as limit:
            extending = asyncio.create_task(self._extend(limit))
            try:
                yield
            finally:
                extending.cancel()

    async def _extend(self, limit: asyncio.Timeout) -> None:
        loop = asyncio.get_running_loop()
        moved, end = self._moved(), loop.time() + _AT_MOST_S
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            if moved != (moved := self._moved()) and not limit.expired():
                limit.reschedule(min(loop.time() + ANSWER_WITHIN_S, end))

    def _moved(self) -> tuple[int, int]:
        return self._received, sum(writer.transport.get_write_buffer_size() for writer in self._writers)
