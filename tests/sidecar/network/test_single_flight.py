"""Blocking work that many ask for at the same time."""

import asyncio
import itertools
import threading
from collections.abc import Iterator

import pytest

from datafile_sidecar.network.single_flight import SingleFlight


class Work:
    """Work that hangs until it is released; each run returns its number."""

    def __init__(self) -> None:
        self.released = threading.Event()
        self.runs = 0
        self._numbers = itertools.count(1)

    def __call__(self) -> int:
        number = self.runs = next(self._numbers)
        assert self.released.wait(20)
        return number


@pytest.fixture
def work() -> Iterator[Work]:
    work = Work()
    yield work
    work.released.set()


async def test_callers_share_one_run(work: Work) -> None:
    """However many callers there are, one thread works; the next caller after its end starts a new run."""
    flight = SingleFlight(work, "test")
    callers = [asyncio.create_task(flight.result()) for _ in range(20)]
    await asyncio.sleep(0)
    assert flight.is_running
    work.released.set()
    assert await asyncio.gather(*callers) == [1] * 20
    assert not flight.is_running
    assert await flight.result() == 2


async def test_a_few_runs_at_a_time(work: Work) -> None:
    """Below the limit each caller has a run of its own; at the limit it shares the latest."""
    flight = SingleFlight(work, "test", limit=2)
    callers = [asyncio.create_task(flight.result()) for _ in range(4)]
    await asyncio.sleep(0)
    work.released.set()
    own, *shared = await asyncio.gather(*callers)
    assert ({own, *shared}, len(set(shared))) == ({1, 2}, 1)


async def test_a_caller_that_leaves_ends_no_run(work: Work) -> None:
    """A cancelled caller takes nothing from the others, and the event loop goes on while the work hangs."""
    flight = SingleFlight(work, "test")
    first, second = asyncio.create_task(flight.result()), asyncio.create_task(flight.result())
    await asyncio.sleep(0)
    first.cancel()
    while not (first.done() and work.runs):
        await asyncio.sleep(0.001)
    assert (first.cancelled(), second.done(), work.runs) == (True, False, 1)
    work.released.set()
    assert await second == 1


async def test_an_error_reaches_every_caller() -> None:
    """Each caller gets what the work raised, and an error that no caller waits for makes no noise."""
    flight: SingleFlight[int] = SingleFlight(lambda: 1 // 0, "test")
    errors = await asyncio.gather(flight.result(), flight.result(), return_exceptions=True)
    assert [type(error) for error in errors] == [ZeroDivisionError] * 2
    unheard = flight.start()
    while not unheard.done():
        await asyncio.sleep(0.001)
    assert not flight.is_running


async def test_without_threads_it_is_an_error_like_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the process may start no thread, callers get an OSError, which they deal with anyway; later it works again."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    flight = SingleFlight(lambda: 1, "test")
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(OSError, match="no thread can be started"):
            await flight.result()
    await asyncio.sleep(0)
    assert await flight.result() == 1


def test_work_may_outlive_its_loop(work: Work) -> None:
    """A call that still hangs when the event loop has been closed does no harm when it returns."""

    async def leave() -> None:
        SingleFlight(work, "outlives").start()

    asyncio.run(leave())
    work.released.set()
    for thread in threading.enumerate():
        if thread.name == "outlives":
            thread.join(5)
            assert not thread.is_alive()
