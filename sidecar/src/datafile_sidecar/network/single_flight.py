"""Blocking work beside the event loop; callers that want its result at the same time share one run.

Each run gets a daemon thread of its own. A call that hangs in the operating system then takes no thread from asyncio's pool,
which publishing needs, and does not hold up the end of the process.
"""

import asyncio
import contextlib
import errno
import functools
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class SingleFlight(Generic[T]):
    """One piece of blocking work that many callers may ask for."""

    def __init__(self, work: Callable[[], T], name: str, limit: int = 1) -> None:
        """Keep the work for later.

        Args:
            work: Called in a thread, without arguments.
            name: The thread's name.
            limit: How many runs there may be at a time. At the limit a new caller shares the latest run.
        """
        self._work = work
        self._name = name
        self._limit = limit
        self._runs: list[asyncio.Future[T]] = []

    @property
    def is_running(self) -> bool:
        """Whether a run has begun and not ended."""
        return bool(self._runs)

    def start(self) -> asyncio.Future[T]:
        """Begin a run, or join the latest one at the limit; its future is shared, so it must not be cancelled."""
        if len(self._runs) < self._limit:
            self._runs.append(self._begin())
        return self._runs[-1]

    async def result(self) -> T:
        """Wait for a run. Cancelling the wait does not end the run.

        Raises:
            Exception: Whatever the work raised.
        """
        return await asyncio.shield(self.start())

    def _begin(self) -> asyncio.Future[T]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        future.add_done_callback(self._end)

        def run() -> None:
            try:
                finish: Callable[[], None] = functools.partial(future.set_result, self._work())
            except Exception as error:  # handed to the callers, whatever it is
                finish = functools.partial(future.set_exception, error)
            with contextlib.suppress(RuntimeError):  # the loop may be closed by now
                loop.call_soon_threadsafe(finish)

        try:
            threading.Thread(target=run, name=self._name, daemon=True).start()
        except RuntimeError as error:
            future.set_exception(OSError(errno.EAGAIN, f"no thread can be started: {error}"))
        return future

    def _end(self, run: asyncio.Future[T]) -> None:
        self._runs.remove(run)
        if not run.cancelled():
            run.exception()  # marks it as seen: a run whose callers have gone may fail silently
