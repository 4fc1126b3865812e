"""A pod's part in the fleet on the bus, with a broker in memory and a clock that jumps."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import msgspec
import pytest
import structlog

from datafile_sidecar.bus.fleet_membership import FleetMembership, PodReport, Predecessors
from datafile_sidecar.bus.fleet_store import SINCE_FIELD
from datafile_sidecar.bus.names import fleet_names
from datafile_sidecar.core import fleet_record
from datafile_sidecar.core.fleet_record import FleetRecord
from datafile_sidecar.network.change_signal import ChangeSignal
from datafile_sidecar.observe.telemetry import Telemetry
from tests.sidecar.bus.memory_broker import MemoryServer
from tests.sidecar.sync.virtual_time import VirtualTimeLoop

KEY, NAMES = "KEY1", fleet_names("KEY1")
SINCE = SINCE_FIELD.encode()


class Pod:
    """A pod that registers on this server. Set `record`, and notify `changes`."""

    def __init__(self, server: MemoryServer, name: str = "a/1", predecessors: Predecessors | None = None) -> None:
        self.server, self.name = server, name
        self.changes = ChangeSignal()
        self.record = FleetRecord(revision=42)
        self.looks = 0
        self.problem: Exception | None = None
        self._predecessors = predecessors or Predecessors()
        telemetry = Telemetry(structlog.wrap_logger(structlog.ReturnLogger()), lambda: 0.0)
        self.membership = FleetMembership(PodReport(name, self._earlier, self._records, self.changes), telemetry)

    async def _earlier(self) -> Predecessors:
        return self._predecessors

    async def _records(self) -> dict[str, FleetRecord]:
        self.looks += 1
        if self.problem:
            raise self.problem
        return {KEY: self.record}

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Be connected for a while."""
        async with self.server.connect("memory:") as broker:
            running = asyncio.create_task(self.membership.run(broker))
            await asyncio.sleep(0.1)
            try:
                yield
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)

    def set(self, record: FleetRecord) -> None:
        self.record = record
        self.changes.notify()

    def written(self) -> FleetRecord:
        return fleet_record.decode(self.pods()[self.name.encode()])

    def pods(self) -> dict[bytes, bytes]:
        return {name: value for name, value in self.server.pods.get(NAMES.pods, {}).items() if name != SINCE}


def run(test: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(test)


def test_a_change_is_there_at_once_and_many_are_one() -> None:
    """A pod that has the revision says so within 50 ms; changes without end are a few writes a second."""

    async def test() -> None:
        server = MemoryServer()
        pod = Pod(server)
        async with pod.connected():
            await asyncio.sleep(1)
            before = server.changes[NAMES.changes]
            pod.set(FleetRecord(revision=43))
            await asyncio.sleep(0.05)
            assert pod.written().revision == 43
            assert server.changes[NAMES.changes] == before + 1
            for revision in range(44, 144):
                pod.set(FleetRecord(revision=revision))
                await asyncio.sleep(0.01)
            assert server.changes[NAMES.changes] <= before + 1 + 5
            await asyncio.sleep(0.3)
            assert pod.written().revision == 143

    run(test())


def test_it_is_heard_at_rest_by_the_clock_of_the_broker() -> None:
    """Without a change, the record is written every five seconds, with the broker's time, and no `status` has to read it."""

    async def test() -> None:
        server = MemoryServer()
        pod = Pod(server)
        loop = asyncio.get_running_loop()
        async with pod.connected():
            changes, written = server.changes[NAMES.changes], set[float]()
            end = loop.time() + 100
            while loop.time() < end:
                await asyncio.sleep(0.1)
                age_s = loop.time() + 1e9 - pod.written().at
                assert 0 <= age_s < 6.5
                written.add(pod.written().at)
            assert 14 <= len(written) <= 26
            assert server.changes[NAMES.changes] == changes
            assert pod.looks < 30

    run(test())


def test_a_doubt_is_looked_at_soon() -> None:
    """That a process without a report has ended is told by nobody: the pod looks more than once a second until it is so."""

    async def test() -> None:
        server = MemoryServer()
        pod = Pod(server)
        pod.record = FleetRecord(revision=43, doubt="workers may still be reconnecting")
        async with pod.connected():
            pod.record = FleetRecord(revision=43)
            await asyncio.sleep(0.9)
            assert pod.written().doubt is None

    run(test())


def test_a_successor_takes_the_place_of_its_predecessors_alone() -> None:
    """A sidecar that was killed is not waited for; one of the same name on another volume is another pod."""

    async def test() -> None:
        server = MemoryServer()
        twin, other_key = Pod(server, "a/9"), fleet_names("OLD").pods
        server.pods[NAMES.pods] = {b"a/1": b"{}", b"a/2": b"{}", b"a/3": b"{}"}
        server.pods[other_key] = {b"a/1": b"{}", b"a/3": b"{}"}
        async with twin.connected():
            pod = Pod(server, "a/4", Predecessors(("a/1", "a/2"), (KEY, "OLD")))
            async with pod.connected():
                assert pod.pods().keys() == {b"a/3", b"a/4", b"a/9"}
                assert server.pods[other_key].keys() == {b"a/3"}
                del server.pods[NAMES.pods][b"a/9"]
                await asyncio.sleep(7)
                assert b"a/9" in pod.pods()

    run(test())


def test_a_broker_that_comes_back_empty_knows_the_silent_pods_again() -> None:
    """Those that register again name the ones that don't; a predecessor that others name is removed by its successor."""

    async def test() -> None:
        server = MemoryServer()
        pods = [Pod(server, "a/1"), Pod(server, "b/1"), Pod(server, "c/2", Predecessors(("c/1",), (KEY,)))]
        silent = Pod(server, "d/1")
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(Pod(server, "c/1").connected())
            for pod in (silent, *pods[:2]):
                await stack.enter_async_context(pod.connected())
            await asyncio.sleep(20)
        async with contextlib.AsyncExitStack() as stack:
            for pod in pods:
                await stack.enter_async_context(pod.connected())
            server.pods.clear()
            await asyncio.sleep(10)
            assert pods[0].pods().keys() == {b"a/1", b"b/1", b"c/2", b"d/1"}
            assert silent.written().at == 0
            async with silent.connected():
                assert silent.written().revision == 42

    run(test())


@pytest.mark.parametrize("is_new", [False, True])
def test_a_predecessor_that_others_name_is_gone_within_seconds(is_new: bool) -> None:
    """After a broker came back empty, a sidecar that was replaced, before or since, is no longer in the way of a yes."""

    async def test() -> None:
        server = MemoryServer()
        other, successor = Pod(server, "a/1"), Pod(server, "c/2", Predecessors(("c/1",), (KEY,)))
        async with Pod(server, "c/1").connected(), other.connected():
            await asyncio.sleep(20)
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(other.connected())
            if not is_new:
                await stack.enter_async_context(successor.connected())
                await asyncio.sleep(4)
            server.pods.clear()
            if is_new:
                await stack.enter_async_context(successor.connected())
            else:
                successor.set(FleetRecord(revision=43))
            await asyncio.sleep(0.1)
            other.set(FleetRecord(revision=43))
            await asyncio.sleep(2)
            assert successor.pods().keys() == {b"a/1", b"c/2"}

    run(test())


def test_an_orderly_end_removes_the_pod() -> None:
    """A pod that ends is not waited for, and a late write does not bring it back."""

    async def test() -> None:
        pod = Pod(MemoryServer())
        async with pod.connected():
            assert pod.membership.view()["state"] == "registered"
            await pod.membership.leave()
            pod.set(FleetRecord(revision=43))
            await asyncio.sleep(20)
            assert pod.pods() == {}
        await pod.membership.leave()

    run(test())


def test_what_can_not_be_described_disables_the_proof_alone() -> None:
    """A state that has no place in a record does not end the connection, and is said."""

    async def test() -> None:
        pod = Pod(MemoryServer())
        async with pod.connected():
            pod.problem = msgspec.ValidationError("too long")
            pod.changes.notify()
            await asyncio.sleep(1)
            assert pod.membership.view() == {"state": "unregistered", "last_error": "too long"}
            pod.problem = None
            await asyncio.sleep(35)
            assert pod.membership.view()["state"] == "registered"

    run(test())


@pytest.mark.parametrize("is_refused_later", [False, True])
def test_missing_permissions_disable_the_proof_alone(is_refused_later: bool) -> None:
    """The pod says why it is not registered, the connection stays, and it registers once it may."""

    async def test() -> None:
        server = MemoryServer()
        server.refuses_pods = not is_refused_later
        pod = Pod(server)
        async with pod.connected():
            server.refuses_pods = True
            await asyncio.sleep(10)
            assert pod.membership.view() == {"state": "unregistered", "last_error": "NOPERM"}
            server.refuses_pods = False
            await asyncio.sleep(35)
            assert pod.membership.view() == {"state": "registered", "last_error": None}
            assert pod.written().revision == 42

    run(test())


def test_a_pod_that_was_silent_is_read_again() -> None:
    """A `status` that waits for a pod that hung for a while is told when it is back, though nothing else has changed."""

    async def test() -> None:
        server = MemoryServer()
        pod = Pod(server)
        async with pod.connected():
            changes = server.changes[NAMES.changes]
            server.refuses_pods = True
            await asyncio.sleep(60)
            server.refuses_pods = False
            await asyncio.sleep(35)
            assert server.changes[NAMES.changes] == changes + 1

    run(test())
