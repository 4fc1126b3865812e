"""Limits how many posts are on their way at a time; the webhook that matters most gets the next free slot."""

import asyncio
import heapq
import itertools
from typing import Final

Priority = tuple[bool, int]
"""The smallest goes first."""


class PostSlots:
    """A semaphore whose waiters are served by priority, and in their order within one.

    One slot is granted in each turn of the event loop, so that other work has its turn between two posts, and the most urgent
    webhook does not share the time with others.
    """

    def __init__(self, limit: int) -> None:
        """`limit` is how many slots there are."""
        self._free = limit
        self._waiting: list[tuple[Priority, int, asyncio.Future[None]]] = []
        self._order: Final = itertools.count()
        self._is_granting = False

    async def acquire(self, priority: Priority) -> None:
        """Wait for a slot."""
        granted = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (priority, next(self._order), granted))
        self._grant_soon()
        try:
            await granted
        except asyncio.CancelledError:
            if not granted.cancelled():
                self.release()
            raise

    def release(self) -> None:
        """Give a slot back."""
        self._free += 1
        self._grant_soon()

    def _grant_soon(self) -> None:
        if self._waiting and self._free and not self._is_granting:
            self._is_granting = True
            asyncio.get_running_loop().call_soon(self._grant)

    def _grant(self) -> None:
        self._is_granting = False
        while self._waiting:
            *_, granted = heapq.heappop(self._waiting)
            if not granted.done():
                self._free -= 1
                granted.set_result(None)
                break
        self._grant_soon()
