"""Hundreds of keys share what one sidecar can do at a time: what is urgent waits for nothing that is not."""

import asyncio
from collections.abc import Iterator
from functools import partial

import pytest

from datafile_sidecar.core import datafile
from datafile_sidecar.core.bus_record import Head, Record
from datafile_sidecar.core.source_rotation import CDN
from datafile_sidecar.network import turns as turns_module
from datafile_sidecar.network.turns import Turn, Turns, Urgency
from tests.datafiles import minimal
from tests.sidecar.sync.model import KEY, ORIGIN, POLL_S, House

ROUTINE_TURNS = 8
ANNOUNCED_TURNS = 24


def ignore() -> None:
    """The turn has come, and nothing waits for it."""


def fill(turns: Turns, urgency: Urgency, count: int) -> list[Turn]:
    """So many turns of other keys, which come at once."""
    others = [Turn() for _ in range(count)]
    assert all(turns.ask(turn, urgency, ignore) for turn in others)
    return others


# The queue


async def test_a_long_wait_says_that_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop that waits for other keys is not stuck: it hears so again and again, and at the end of the wait."""
    monkeypatch.setattr(turns_module, "_STILL_WAITING_S", 0.01)
    turns, heard = Turns(announced=1, hinted=1, routine=1), list[str]()
    [other] = fill(turns, Urgency.ROUTINE, 1)
    waiting = asyncio.create_task(turns.take(Urgency.ROUTINE, lambda: heard.append("waits")))
    async with asyncio.timeout(10):
        while len(heard) < 3:
            await asyncio.sleep(0.005)
        turns.end(other)
        turns.end(await waiting)
    before = len(heard)
    await asyncio.sleep(0.03)
    assert len(heard) == before


def test_what_is_alike_comes_one_by_one_and_waits_for_nothing_else() -> None:
    """A large datafile that was announced waits for no poll, but for another one that was announced."""
    turns = Turns(announced=2, hinted=1, routine=1, alike=1)
    [poll] = fill(turns, Urgency.ROUTINE, 1)
    [first] = fill(turns, Urgency.ANNOUNCED, 1)
    second, came = Turn(), list[str]()
    turns.end(poll)
    assert not turns.ask(second, Urgency.ANNOUNCED, lambda: came.append("second"))
    turns.end(first)
    assert came == ["second"]


def test_the_most_urgent_is_next_and_then_the_first() -> None:
    """An announced key overtakes hinted ones, and those overtake polls; among equals, it is first come, first served."""
    turns, came = Turns(announced=1, hinted=1, routine=1), list[str]()
    waiting = [
        (name, Turn(), urgency)
        for name, urgency in [
            ("running", Urgency.ROUTINE),
            ("poll 1", Urgency.ROUTINE),
            ("hint", Urgency.HINTED),
            ("poll 2", Urgency.ROUTINE),
            ("announced 1", Urgency.ANNOUNCED),
            ("announced 2", Urgency.ANNOUNCED),
        ]
    ]
    for name, turn, urgency in waiting:
        turns.ask(turn, urgency, partial(came.append, name))
    for _ in waiting:
        turns.end(next(turn for name, turn, _ in waiting if name == came[-1]))
    assert came == ["running", "announced 1", "announced 2", "hint", "poll 1", "poll 2"]


def test_turns_are_kept_for_what_is_urgent() -> None:
    """However many polls hang, an announced key begins at once."""
    turns = Turns(announced=4, hinted=3, routine=2)
    fill(turns, Urgency.ROUTINE, 2)
    assert not turns.ask(Turn(), Urgency.ROUTINE, ignore)
    fill(turns, Urgency.HINTED, 1)
    assert not turns.ask(Turn(), Urgency.HINTED, ignore)
    fill(turns, Urgency.ANNOUNCED, 1)
    assert not turns.ask(Turn(), Urgency.ANNOUNCED, ignore)


def test_a_turn_that_waits_becomes_urgent() -> None:
    """A key that waits to be polled is announced: it begins at once, on its old place in the queue."""
    turns = Turns(announced=2, hinted=1, routine=1)
    fill(turns, Urgency.ROUTINE, 1)
    turn = Turn()
    asked = (Urgency.ROUTINE, Urgency.ROUTINE, Urgency.ANNOUNCED)
    assert [turns.ask(turn, urgency, ignore) for urgency in asked] == [False, False, True]
    turns.end(turn)
    assert fill(turns, Urgency.ANNOUNCED, 1)  # one was taken, not more


def test_a_turn_that_waits_is_given_up() -> None:
    """What waits no longer is in nobody's way, and ending twice frees one place, not two."""
    turns, came = Turns(announced=1, hinted=1, routine=1), list[str]()
    (running,) = fill(turns, Urgency.ROUTINE, 1)
    first, second = Turn(), Turn()
    assert not turns.ask(first, Urgency.ROUTINE, partial(came.append, "first"))
    assert not turns.ask(second, Urgency.ROUTINE, partial(came.append, "second"))
    turns.end(first)
    turns.end(first)
    assert came == []
    turns.end(running)
    turns.end(running)
    assert came == ["second"]
    assert not turns.ask(first, Urgency.ROUTINE, ignore)


async def test_waiting_for_a_turn_can_be_cancelled() -> None:
    """A wait that is cancelled takes no turn with it, whether it came just then or not."""
    turns = Turns(announced=1, hinted=1, routine=1)
    for comes_first in (False, True):
        (running,) = fill(turns, Urgency.ROUTINE, 1)
        wait = asyncio.create_task(turns.take(Urgency.ROUTINE))
        await asyncio.sleep(0)
        if comes_first:
            turns.end(running)
        wait.cancel()
        await asyncio.gather(wait, return_exceptions=True)
        assert wait.cancelled()
        turns.end(running)
        turn, another = await turns.take(Urgency.ROUTINE), Turn()
        assert not turns.ask(another, Urgency.ROUTINE, ignore)
        turns.end(another)
        turns.end(turn)


# A key that waits


@pytest.fixture
def house() -> Iterator[House]:
    house = House()
    house.wait(1)
    yield house
    house.close()


def test_a_key_that_waits_is_not_stuck_and_is_polled_in_its_turn(house: House) -> None:
    """Other keys' polls hang for minutes: this one stays alive, and is polled when they end."""
    others = fill(house.syncer.fetcher.capacity.fetches, Urgency.ROUTINE, ROUTINE_TURNS)
    house.optimizely.fetches.clear()
    house.optimizely.history[CDN].append((0.0, 11))

    async def is_alive() -> bool:
        return house.syncer.is_alive

    for _ in range(10):
        house.wait(POLL_S)
        assert house.loop.run_until_complete(is_alive())
    assert house.optimizely.fetches == []
    house.syncer.fetcher.capacity.fetches.end(others[0])
    house.wait(0.1)
    assert len(house.optimizely.fetches) == 1
    assert house.published == 11


def test_an_announced_key_waits_for_no_poll(house: House) -> None:
    """A webhook comes while the key waits to be polled behind others that hang: it is fetched at once, and once."""
    fill(house.syncer.fetcher.capacity.fetches, Urgency.ROUTINE, ROUTINE_TURNS)
    house.wait(2 * POLL_S)
    house.optimizely.fetches.clear()
    for place in (CDN, ORIGIN):
        house.optimizely.history[place].append((0.0, 11))
    house.announce(11)
    house.wait(0.05)
    assert house.published == 11
    assert len(house.optimizely.fetches) == 1


def test_a_key_that_waits_takes_what_the_bus_brings(house: House) -> None:
    """While a key waits for its turn, another pod's datafile is published."""
    fill(house.syncer.fetcher.capacity.fetches, Urgency.ANNOUNCED, ANNOUNCED_TURNS)
    house.announce(11)
    house.wait(1)
    assert house.published == 10
    parsed = datafile.parse(minimal(11), KEY)
    head = Head(generation=0, revision=11, sha256=parsed.sha256, fetched=house.unix_now())

    async def receive() -> None:
        house.syncer.receive(Record(head, parsed, head.encode()))

    house.loop.run_until_complete(receive())
    house.wait(0.1)
    assert house.published == 11


def test_accepted_work_that_waits_is_waited_for(house: House) -> None:
    """A process that ends gives an announced key its moment, also where it waits for its turn."""
    others = fill(house.syncer.fetcher.capacity.fetches, Urgency.ANNOUNCED, ANNOUNCED_TURNS)
    for place in (CDN, ORIGIN):
        house.optimizely.history[place].append((0.0, 11))
    house.announce(11)
    house.wait(1)
    settled = house.loop.create_task(house.syncer.settle())
    house.wait(1)
    assert not settled.done()
    house.syncer.fetcher.capacity.fetches.end(others[0])
    house.loop.run_until_complete(settled)
    assert house.published == 11


def test_a_key_keeps_no_turn_that_it_does_not_use(house: House) -> None:
    """After fetches, failures and restarts, all turns can be had by others."""
    house.optimizely.fails_until[CDN] = house.loop.time() + 100
    house.announce(12)
    house.wait(700)
    house.hint()
    house.wait(POLL_S)
    capacity = house.syncer.fetcher.capacity
    assert fill(capacity.fetches, Urgency.ANNOUNCED, ANNOUNCED_TURNS)
    for turns in (capacity.validations, capacity.large_bodies):
        assert fill(turns, Urgency.ROUTINE, 1)
