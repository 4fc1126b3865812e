"""What a key gives to the bus: the datafile that a change is from, though it is not published yet, and the change itself."""

import asyncio
import hashlib
from collections.abc import Iterator

import pytest

from datafile_sidecar.bus.compression import applied
from datafile_sidecar.core.bus_record import Record
from datafile_sidecar.core.source_rotation import CDN
from datafile_sidecar.core.state import Trigger
from datafile_sidecar.network.turns import Turn, Urgency
from tests import bus_values
from tests.datafiles import minimal, realistic
from tests.sidecar.sync.model import ORIGIN, House
from tests.sidecar.sync.test_fleet_machine import Fleet


@pytest.fixture
def house() -> Iterator[House]:
    house = House()
    house.wait(2)
    yield house
    house.close()


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    fleet = Fleet()
    fleet.wait(2)
    yield fleet
    fleet.close()


def sha256(body: bytes) -> str:
    """The digest by which bytes are asked for."""
    return hashlib.sha256(body).hexdigest()


def record(house: House, revision: int) -> Record:
    """A datafile as the bus brings it."""
    head = bus_values.head(minimal(revision), fetched=house.unix_now())
    return bus_values.read(bus_values.value(head, minimal(revision)))


def test_what_the_bus_has_just_brought_is_a_base_already(house: House) -> None:
    """The next change builds on it, before and after it is published; what it replaced is a base until then."""

    async def ask() -> list[bool]:
        return [await house.syncer.body(sha256(minimal(revision))) == minimal(revision) for revision in (10, 11, 12)]

    async def receive() -> list[bool]:
        house.syncer.receive(record(house, 11))
        return await ask()

    assert house.loop.run_until_complete(ask()) == [True, False, False]
    assert house.loop.run_until_complete(receive()) == [True, True, False]
    house.wait(0.1)
    assert house.published == 11
    assert house.loop.run_until_complete(ask()) == [False, True, False]


def test_a_base_is_read_after_what_is_being_published(house: House) -> None:
    """While a datafile is decided about and written, nobody is given the one before it."""

    async def ask() -> None:
        async with house.syncer.store.write_lock:
            asking = asyncio.create_task(house.syncer.body(sha256(minimal(10))))
            await asyncio.sleep(0)
            assert not asking.done()
        assert await asking == minimal(10)

    house.loop.run_until_complete(ask())


def test_the_pod_that_fetched_has_the_change(fleet: Fleet) -> None:
    """From what all had to what all have now. Pods that got it by the bus have none to offer, and none has one for another."""
    fleet.optimizely.issue(11)
    for place in (CDN, ORIGIN):
        fleet.optimizely.history[place].append((0, 11))
    fleet.announce(fleet.pods[0], 11, Trigger.WEBHOOK)
    fleet.wait(0.1)
    old, new = (fleet.optimizely.bodies[revision] for revision in (10, 11))
    fetched, received = (pod.syncer for pod in fleet.pods[:2])
    head = fetched.held()
    assert head
    change = fetched.change(head)
    assert change
    assert (change.base, change.sha256) == (sha256(old), sha256(new))
    assert applied(change.frame, old) == new
    assert received.change(head) is None
    assert fetched.change(bus_values.head(minimal(12))) is None


def test_without_a_bus_no_change_is_made(fleet: Fleet) -> None:
    """It would cost reading the datafile before, and its memory, for nobody."""
    fleet.pods[0].bus.cut()
    fleet.optimizely.issue(11)
    fleet.optimizely.history[ORIGIN].append((0, 11))
    fleet.announce(fleet.pods[0], 11, Trigger.WEBHOOK)
    fleet.wait(0.1)
    syncer = fleet.pods[0].syncer
    head = syncer.held()
    assert head
    assert fleet.pods[0].body == fleet.optimizely.bodies[11]
    assert syncer.change(head) is None


@pytest.mark.parametrize(
    ("size_kib", "is_busy", "has_change"), [(1100, True, False), (1100, False, True), (10, True, True)]
)
def test_a_large_change_is_made_where_no_other_datafile_is_validated(
    fleet: Fleet, size_kib: int, is_busy: bool, has_change: bool
) -> None:
    """It would double the most memory that many keys take; without it, the other pods read the whole. All turns are given back."""
    syncer = fleet.pods[0].syncer
    validations, turns = syncer.fetcher.capacity.validations, (Turn(), Turn())

    def flip(revision: int) -> None:
        fleet.optimizely.bodies[revision] = realistic(size_kib, revision)
        fleet.optimizely.history[ORIGIN].append((0, revision))
        fleet.announce(fleet.pods[0], revision, Trigger.WEBHOOK)
        fleet.wait(0.1)

    flip(11)
    if is_busy:
        assert validations.ask(turns[0], Urgency.ROUTINE, lambda: None)
    flip(12)
    assert [pod.body for pod in fleet.pods] == [fleet.optimizely.bodies[12]] * len(fleet.pods)
    head = syncer.held()
    assert head
    assert (syncer.change(head) is not None) is has_change
    validations.end(turns[0])
    assert all(validations.ask(turn, Urgency.ANNOUNCED, lambda: None) for turn in turns)
