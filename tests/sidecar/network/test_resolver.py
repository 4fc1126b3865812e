"""Lookups that many ask for at the same time, with a name service that hangs."""

import asyncio
import itertools
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from datafile_sidecar.network.resolver import DaemonResolver

AT_ONCE = 4


class NameService:
    """Hangs until it is released; each lookup returns its number as the address."""

    def __init__(self) -> None:
        self.released = threading.Event()
        self.lookups = 0
        self._numbers = itertools.count(1)

    def __call__(self, *_: object, **__: object) -> list[tuple[Any, ...]]:
        number = self.lookups = next(self._numbers)
        assert self.released.wait(20)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (str(number), 0))]


@pytest.fixture
def service() -> Iterator[NameService]:
    service = NameService()
    yield service
    service.released.set()


async def number(resolver: DaemonResolver) -> int:
    """The number of the lookup that answered."""
    [result] = await resolver.resolve("host")
    return int(result["host"])


async def test_callers_share_the_latest_lookup(service: NameService) -> None:
    """Below the limit each caller has a lookup of its own; at the limit it shares the latest. The next caller starts anew."""
    resolver = DaemonResolver(service)
    callers = [asyncio.create_task(number(resolver)) for _ in range(20)]
    while service.lookups < AT_ONCE:
        await asyncio.sleep(0.001)
    service.released.set()
    numbers = await asyncio.gather(*callers)
    own, shared = numbers[: AT_ONCE - 1], numbers[AT_ONCE - 1 :]
    assert ({*own, *shared}, len(set(own)), len(set(shared))) == ({1, 2, 3, 4}, AT_ONCE - 1, 1)
    assert service.lookups == AT_ONCE
    assert await number(resolver) == AT_ONCE + 1


async def test_a_caller_that_leaves_ends_no_lookup(service: NameService) -> None:
    """A cancelled caller takes nothing from the others, and the event loop goes on while the lookup hangs."""
    resolver = DaemonResolver(service)
    *_, first, second = [asyncio.create_task(number(resolver)) for _ in range(AT_ONCE + 1)]
    await asyncio.sleep(0)
    first.cancel()
    while not (first.done() and service.lookups == AT_ONCE):
        await asyncio.sleep(0.001)
    assert (first.cancelled(), second.done(), service.lookups) == (True, False, AT_ONCE)
    service.released.set()
    assert await second in range(1, AT_ONCE + 1)


async def test_an_error_reaches_every_caller() -> None:
    """Each caller gets what the lookup raised, and an error that no caller waits for makes no noise."""
    calls: list[None] = []

    def failing(*_: object, **__: object) -> list[tuple[Any, ...]]:
        calls.append(None)
        return [(1 // 0,)]

    resolver = DaemonResolver(failing)
    errors = await asyncio.gather(*(number(resolver) for _ in range(AT_ONCE + 1)), return_exceptions=True)
    assert [type(error) for error in errors] == [ZeroDivisionError] * (AT_ONCE + 1)
    assert len(calls) == AT_ONCE
    unheard = asyncio.create_task(number(resolver))
    await asyncio.sleep(0)
    unheard.cancel()
    while len(calls) == AT_ONCE:
        await asyncio.sleep(0.001)
    with pytest.raises(ZeroDivisionError):
        await number(resolver)


def test_a_lookup_may_outlive_its_loop(service: NameService) -> None:
    """A call that still hangs when the event loop has been closed does no harm when it returns."""

    async def leave() -> None:
        caller = asyncio.create_task(DaemonResolver(service).resolve("outlives"))
        await asyncio.sleep(0)
        caller.cancel()

    asyncio.run(leave())
    service.released.set()
    for thread in threading.enumerate():
        if thread.name == "resolve-outlives":
            thread.join(5)
            assert not thread.is_alive()
