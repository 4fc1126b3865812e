"""What messages bring: a change is applied without reading a value, what fails is read or fetched, and strangers cost little."""

import asyncio
import hashlib
import itertools
import random
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from datafile_sidecar.bus import inbox, names
from datafile_sidecar.bus.forms import CURRENT, EARLIER
from datafile_sidecar.core import bus_message
from datafile_sidecar.core.bus_message import Change
from datafile_sidecar.observe.telemetry import Telemetry
from tests import bus_values
from tests.datafiles import minimal, realistic
from tests.hostile_frames import HOSTILE, bomb, unchecked_change
from tests.sidecar.bus.memory_broker import MemoryServer
from tests.sidecar.bus.pods import KEY, Holder, running, until
from tests.sidecar.sync.virtual_time import VirtualTimeLoop

VALUE, CHANGES = names.value_key(KEY), names.changes_channel(KEY)
EARLIER_VALUE, NEWS = f"datafile-sidecar:1:{KEY}:datafile", f"datafile-sidecar:1:{KEY}:news"


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What the bus reports of records: the event, and the rest of its arguments."""
    events: list[tuple[Any, ...]] = []
    for name in ("bus_record_received", "bus_record_rejected", "bus_record_missing"):
        monkeypatch.setattr(
            Telemetry, name, lambda _, *args, name=name, **named: events.append((name, *args, *named.values()))
        )
    return events


@asynccontextmanager
async def pods(server: MemoryServer, *holders: Holder) -> AsyncIterator[list[Any]]:
    """Run a bus for each of these members; all are connected, and nothing that was read or seen until then counts."""
    async with AsyncExitStack() as stack:
        buses = [
            await stack.enter_async_context(running("memory:", holder, connect=server.connect)) for holder in holders
        ]
        for bus in buses:
            await bus.settle()
        await until(lambda: all(holder.content == holders[0].content for holder in holders if holder.content))
        server.reads.clear()
        for holder in holders:
            holder.seen.clear()
        yield buses


def whole_reads(server: MemoryServer, key: str = VALUE) -> int:
    """How often a whole value was read; a head alone is shorter than the test's datafiles."""
    return sum(name == key and size > 1024 for name, size in server.reads)


def on_virtual_time(work: Coroutine[Any, Any, None]) -> None:
    loop = VirtualTimeLoop()
    loop.run_until_complete(work)
    loop.close()


def incompressible(revision: int) -> bytes:
    """A datafile whose value is longer than a head, and that changes in little but its revision."""
    noise = random.Random(1).randbytes(3000).hex().encode()
    return minimal(revision)[:-1] + b',"x":"' + noise + b'"}'


OLD, NEW, NEXT = (incompressible(revision) for revision in (41, 42, 43))


async def test_a_change_needs_no_value(events: list[tuple[Any, ...]]) -> None:
    """Ten pods that have the base get the datafile from the message alone, and nobody reads what the sender has written."""
    server, sender, others = MemoryServer(), Holder(body=OLD), [Holder(body=OLD) for _ in range(10)]
    async with pods(server, sender, *others) as buses:
        sender.fetch(NEW)
        buses[0].share(KEY)
        await until(lambda: all(other.content == NEW for other in others))
        assert whole_reads(server) == 0
        assert events == [("bus_record_received", KEY, 42, True)] * 10
        assert bus_values.read(server.read(VALUE)).datafile.body == NEW


async def test_changes_in_quick_succession_build_on_each_other(events: list[tuple[Any, ...]]) -> None:
    """The second comes while the first is applied: both are, in their order, though the first was not published yet."""
    server, sender, other = MemoryServer(), Holder(body=OLD), Holder(body=OLD)
    async with pods(server, sender, other):
        for before, after in ((OLD, NEW), (NEW, NEXT)):
            server.publish(CHANGES, bus_values.message(bus_values.head(after), after, before))
        await until(lambda: other.content == NEXT)
        assert whole_reads(server) == 0
        assert [event for event in events if event[0] != "bus_record_received"] == []


@pytest.mark.parametrize("base", [minimal(7), None], ids=["another base", "no datafile at all"])
async def test_a_pod_without_the_base_reads_the_value(base: bytes | None, events: list[tuple[Any, ...]]) -> None:
    """It has missed a revision, or is new: it reads the whole datafile, once, and complains of nothing."""
    server, sender, other = MemoryServer(), Holder(body=OLD), Holder(body=base)
    async with pods(server, sender) as [bus]:
        async with running("memory:", other, connect=server.connect):
            other.content = base
            sender.fetch(NEW)
            bus.share(KEY)
            await until(lambda: other.content == NEW)
            assert whole_reads(server) == 1 + (base is None or minimal(7) == base)
            assert [event[0] for event in events] == ["bus_record_received"] * 2


def changed(frame: bytes, body: bytes = NEW, **fields: Any) -> bytes:
    """A message whose change is this, from the right base as it says."""
    head = bus_values.head(body, **fields)
    change = Change(hashlib.sha256(OLD).hexdigest(), head.sha256, frame)
    return bus_message.encode(head, 5000, 1, change)


def elsewhere(body: bytes) -> bytes:
    """The same datafile, but for one byte, as a pod may have it that was given other bytes."""
    return body[:900] + bytes([body[900] ^ 1]) + body[901:]


BAD_CHANGES = {f"a frame: {kind}": changed(text) for kind, text in HOSTILE.items() if len(text) < 16000} | {
    "a base that differs by one byte": changed(unchecked_change(elsewhere(OLD), elsewhere(NEW)), elsewhere(NEW)),
    "a bomb of 8 MiB in 266 bytes": changed(bomb(8 << 20)),
    "to another datafile": changed(bus_values.change_frame(OLD, NEXT)),
    "to another revision": changed(bus_values.change_frame(OLD, NEW), revision=4242),
    "to a datafile of another key": changed(
        bus_values.change_frame(OLD, minimal(42, "KEY2")), minimal(42, "KEY2").replace(b"KEY2", b"KEY1")
    ),
    "to no datafile": changed(bus_values.change_frame(OLD, b"<html>"), sha256=hashlib.sha256(b"<html>").hexdigest()),
}


@pytest.mark.parametrize("kind", BAD_CHANGES)
async def test_a_bad_change_is_refused_and_costs_a_look_at_one_head(kind: str, events: list[tuple[Any, ...]]) -> None:
    """What the pod has stays, no value is read whole, upstream is not asked, and the next good change arrives."""
    server, sender, other = MemoryServer(), Holder(body=OLD), Holder(body=OLD)
    async with pods(server, sender, other) as buses:
        server.publish(CHANGES, BAD_CHANGES[kind])
        await until(lambda: len(server.reads) >= 2)
        assert {event[:3] for event in events} == {("bus_record_rejected", KEY, "change")}
        assert (other.content, other.seen, other.missed, whole_reads(server)) == (OLD, [], 0, 0)
        sender.fetch(NEXT)
        buses[0].share(KEY)
        await until(lambda: other.content == NEXT)


async def test_a_bad_change_beside_a_good_value_is_made_up_for(events: list[tuple[Any, ...]]) -> None:
    """The sender's change does not fit what the pods have, though its base has the same name: all read the value."""
    server, sender, other = MemoryServer(), Holder(body=OLD), Holder(body=OLD)
    async with pods(server, sender, other) as buses:
        sender.fetch(body := elsewhere(NEW))
        assert sender.last_change
        wrong = unchecked_change(elsewhere(OLD), body)
        sender.last_change = Change(sender.last_change.base, sender.last_change.sha256, wrong)
        buses[0].share(KEY)
        await until(lambda: other.content == body)
        assert whole_reads(server) == 1
        assert [event[0] for event in events] == ["bus_record_rejected", "bus_record_received"]


def test_whole_values_are_read_over_a_time_that_their_size_asks_for() -> None:
    """A datafile that is no small change, and many pods: their reads are spread, and the first ones come at once."""

    async def spread() -> None:
        server, sender, others = MemoryServer(), Holder(body=OLD), [Holder(body=OLD) for _ in range(40)]
        async with pods(server, sender, *others):
            loop, at = asyncio.get_running_loop(), list[float]()
            begun = loop.time()
            server.write(VALUE, bus_values.value(bus_values.head(NEW), NEW), 1000)
            server.publish(CHANGES, bus_values.message(bus_values.head(NEW), NEW, size=200_000, listeners=10_000))
            while loop.time() < begun + 21:
                await asyncio.sleep(0.5)
                at += [loop.time() - begun] * (whole_reads(server) - len(at))
            assert all(other.content == NEW for other in others)
            # 20 s for 2 GB: evenly, so that no quarter of the time has more than half of the reads.
            for quarter in range(4):
                assert 2 <= sum(5 * quarter < moment <= 5 * quarter + 5 for moment in at) <= 20

    on_virtual_time(spread())


def test_what_came_meanwhile_is_not_read() -> None:
    """A pod that waits for its moment to read a value, and gets the datafile by a change, leaves the broker alone."""

    async def meanwhile() -> None:
        server, other = MemoryServer(), Holder(body=OLD)
        async with pods(server, other):
            head = bus_values.head(NEW)
            server.write(VALUE, bus_values.value(head, NEW), 1000)
            server.publish(CHANGES, bus_values.message(head, NEW, size=8_000_000, listeners=10_000))
            server.publish(CHANGES, bus_values.message(head, NEW, OLD))
            await asyncio.sleep(31)
            assert (other.content, server.reads) == (NEW, [])

    on_virtual_time(meanwhile())


def test_a_stranger_cannot_delay_a_read() -> None:
    """A message that claims the largest fleet does not hold up the one that comes after it."""

    async def claims() -> None:
        server, sender, other = MemoryServer(), Holder(body=OLD), Holder(body=OLD)
        async with pods(server, sender, other):
            forged = bus_values.head(NEXT, revision=99)
            server.publish(CHANGES, bus_values.message(forged, NEXT, size=8_000_000, listeners=1_000_000))
            server.write(VALUE, bus_values.value(bus_values.head(NEW), NEW), 1000)
            server.publish(CHANGES, bus_values.message(bus_values.head(NEW), NEW, size=5000, listeners=2))
            await asyncio.sleep(0.1)
            assert other.content == NEW

    on_virtual_time(claims())


def test_messages_that_bring_nothing_cost_a_head_a_second() -> None:
    """However many there are, whatever they claim: no storm of reads, no fetch, and what is good stays."""

    async def flood() -> None:
        server, sender, other = MemoryServer(), Holder(body=OLD), Holder(body=OLD)
        async with pods(server, sender, other):
            loop = asyncio.get_running_loop()
            begun, number = loop.time(), 0
            while loop.time() < begun + 10:
                number += 1
                forged = bus_values.head(NEW, revision=1000 + number, sha256=f"{number:064x}")
                server.publish(CHANGES, bus_values.message(forged, NEW, listeners=0))
                server.publish(CHANGES, changed(b"garbage", revision=5000 + number))
                await asyncio.sleep(0.02)
            assert number > 400
            assert len(server.reads) <= 2 * 12
            assert (other.content, other.missed, whole_reads(server)) == (OLD, 0, 0)

    on_virtual_time(flood())


async def test_more_changes_than_are_kept_cost_one_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages pile up while a pod is busy: those that build on what was dropped are given up, and the value is read."""
    monkeypatch.setattr(inbox, "_MAX_CHANGES", 2)
    bodies = [OLD, *(incompressible(revision) for revision in range(50, 56))]
    server, sender, other = MemoryServer(), Holder(body=OLD), Holder(body=OLD)
    async with pods(server, sender, other) as buses:
        server.write(VALUE, bus_values.value(bus_values.head(bodies[-1]), bodies[-1]), 1000)
        for before, after in itertools.pairwise(bodies):
            server.publish(CHANGES, bus_values.message(bus_values.head(after), after, before))
        await until(lambda: other.content == bodies[-1])
        assert whole_reads(server) == 2  # the sender is such a pod, too
        await buses[1].settle()


# Sidecars of the first version on the same bus


async def earlier_pod(server: MemoryServer, heard: list[bytes]) -> None:
    """Listen as a sidecar of the first version does."""
    async with server.connect("memory:") as broker:
        await broker.subscribe([NEWS])
        while True:
            heard.append((await broker.next_message())[1])


@asynccontextmanager
async def with_earlier_pod(server: MemoryServer) -> AsyncIterator[list[bytes]]:
    heard: list[bytes] = []
    task = asyncio.create_task(earlier_pod(server, heard))
    await until(lambda: any(NEWS in one._channels for one in server.connections))
    try:
        yield heard
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_the_first_version_is_told_in_its_own_words() -> None:
    """While one listens, its key has the datafile as it knows it, and its channel announces that; the others use the change."""
    server, sender, other = MemoryServer(), Holder(body=OLD), Holder(body=OLD)
    async with pods(server, sender, other) as buses, with_earlier_pod(server) as heard:
        sender.fetch(NEW)
        buses[0].share(KEY)
        await until(lambda: heard and other.content == NEW)
        await buses[0].settle()
        record = bus_values.read(server.read(EARLIER_VALUE), EARLIER)
        assert (record.datafile.body, heard) == (NEW, [record.line])
        assert whole_reads(server) == whole_reads(server, EARLIER_VALUE) == 0


async def test_without_the_first_version_nothing_is_said_to_it() -> None:
    """In a fleet of today, its key stays empty, and its channel silent."""
    server, sender, other = MemoryServer(), Holder(body=OLD), Holder(body=OLD)
    async with pods(server, sender, other) as buses:
        sender.fetch(NEW)
        buses[0].share(KEY)
        await until(lambda: other.content == NEW)
        await buses[0].settle()
        assert server.read(EARLIER_VALUE) == b""


async def test_without_the_right_to_count_the_first_version_is_served_all_the_same() -> None:
    """A user with the rights that were documented before: everything goes on, and both forms are written."""
    server, sender, other = MemoryServer(), Holder(body=OLD), Holder(body=OLD)
    server.refuses_counting = True
    async with pods(server, sender, other) as buses:
        sender.fetch(NEW)
        buses[0].share(KEY)
        await until(lambda: other.content == NEW)
        await buses[0].settle()
        assert bus_values.read(server.read(EARLIER_VALUE), EARLIER).datafile.body == NEW
        assert [bus.view()["last_error"] for bus in buses] == [None, None]


async def test_what_the_first_version_shares_is_read_once_and_forwarded(events: list[tuple[Any, ...]]) -> None:
    """One pod reads it whole; all others get it from that one, as a change."""
    server, others = MemoryServer(), [Holder(body=OLD) for _ in range(10)]
    async with pods(server, *others), with_earlier_pod(server):
        head = bus_values.head(NEW, id="1" * 16)
        server.write(EARLIER_VALUE, bus_values.value(head, NEW, EARLIER), 1000)
        server.publish(NEWS, head.encode())
        await until(lambda: all(other.content == NEW for other in others))
        assert (whole_reads(server, EARLIER_VALUE), whole_reads(server)) == (1, 0)
        assert sorted(event[3] for event in events) == [False] + [True] * 9
        assert bus_values.read(server.read(EARLIER_VALUE), EARLIER).head == head


async def test_what_was_announced_as_a_change_is_not_read_in_the_form_of_the_first_version() -> None:
    """A sidecar of today tells both versions at once: those of its own do not begin to forward what they are about to have."""
    server, other = MemoryServer(), Holder(body=OLD)
    async with pods(server, other):
        head = bus_values.head(NEW, id="1" * 16)
        server.write(EARLIER_VALUE, bus_values.value(head, NEW, EARLIER), 1000)
        server.publish(CHANGES, bus_values.message(head, NEW, OLD))
        server.publish(NEWS, head.encode())
        await until(lambda: other.content == NEW)
        server.publish(NEWS, bus_values.head(NEXT, id="2" * 16).encode())
        await until(lambda: server.read(names.forwarding_key(KEY, "2" * 16)))
        assert server.read(names.forwarding_key(KEY, "1" * 16)) == b""


def test_a_forwarder_that_fails_is_not_waited_for_long() -> None:
    """It has taken the lease and is gone: the others read for themselves, after a second or two."""

    async def fails() -> None:
        server, others = MemoryServer(), [Holder(body=OLD) for _ in range(5)]
        async with pods(server, *others):
            head = bus_values.head(NEW, id="1" * 16)
            server.write(names.forwarding_key(KEY, head.id), b"gone", 10)
            server.write(EARLIER_VALUE, bus_values.value(head, NEW, EARLIER), 1000)
            server.publish(NEWS, head.encode())
            await asyncio.sleep(0.9)
            assert all(other.content == OLD for other in others)
            await asyncio.sleep(1.2)
            assert all(other.content == NEW for other in others)

    on_virtual_time(fails())


@pytest.mark.parametrize("newer", [CURRENT, EARLIER])
async def test_a_pod_that_connects_takes_the_newer_form(newer: Any, events: list[tuple[Any, ...]]) -> None:
    """Whichever version wrote it; the older form is not read, and not overwritten by what is older still."""
    server, late = MemoryServer(), Holder()
    for form in (CURRENT, EARLIER):
        body = NEXT if form is newer else NEW
        server.write(form.key(KEY), bus_values.value(bus_values.head(body), body, form), 1000)
    async with running("memory:", late, connect=server.connect) as bus:
        assert late.content == NEXT
        await bus.settle()
        assert late.seen[0] == 43
        assert len(events) == 1


async def test_garbage_of_the_first_version_is_healed() -> None:
    """A bad value under its key is reported once, and replaced, though no sidecar of that version listens."""
    server, holder = MemoryServer(), Holder(body=OLD)
    server.write(EARLIER_VALUE, b"\xff" * 2000, 1000)
    async with running("memory:", holder, connect=server.connect) as bus:
        await bus.settle()
        assert bus_values.read(server.read(EARLIER_VALUE), EARLIER).datafile.body == OLD


@pytest.mark.parametrize("size_kib", [12, 736])
def test_the_value_is_smaller_than_that_of_the_first_version(size_kib: int) -> None:
    """Zstandard takes at most four fifths of what zlib took."""
    body = realistic(size_kib, 42)
    assert len(CURRENT.compress(body)) < 0.8 * len(EARLIER.compress(body))
