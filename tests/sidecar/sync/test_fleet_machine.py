"""Three real loops that share a model of the bus, in virtual time, under any order of news, partitions, restarts and rollbacks."""

import asyncio
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from datafile_sidecar.bus import Lease, Member
from datafile_sidecar.core import bus_record, datafile
from datafile_sidecar.core.bus_record import Check, Record
from datafile_sidecar.core.conditional import Validators
from datafile_sidecar.core.gate import AdmissionPolicy
from datafile_sidecar.core.schedule import Pace
from datafile_sidecar.core.source_rotation import CDN
from datafile_sidecar.core.state import RollbackPolicy, Trigger
from datafile_sidecar.observe import logs
from datafile_sidecar.observe.telemetry import Telemetry
from datafile_sidecar.sync.bootstrap import Bootstrap
from datafile_sidecar.sync.fetcher import Fetcher
from datafile_sidecar.sync.store import KeyStore
from datafile_sidecar.sync.syncer import KeySyncer
from datafile_sidecar.upstream import Fetched, NotModified
from datafile_sidecar.volume.status_file import Status
from tests import bus_values
from tests.datafiles import minimal
from tests.sidecar.sync.model import KEY, MEMORY, ORIGIN, POLL_S, ROLLBACK_S, FakeOptimizely, WatchedVolume
from tests.sidecar.sync.virtual_time import VirtualTimeLoop

PODS = 3
HOP_S = 0.002


class Optimizely(FakeOptimizely):
    """Gives a revision that is issued again, after a rollback, other bytes than it had."""

    def __init__(self, loop: VirtualTimeLoop) -> None:
        super().__init__(loop)
        self.bodies = {10: minimal(10)}
        self._issued = 0

    def issue(self, revision: int) -> None:
        """From now on this revision has bytes that it never had."""
        self._issued += 1
        self.bodies[revision] = minimal(revision) + b"\n" * self._issued

    async def fetch(
        self, url: str, *, sdk_key: str, validators: Validators | None = None, token: str | None = None, **_: object
    ) -> Fetched | NotModified:
        """Serve it, with the digest as its ETag."""
        self.fetches.append((self._loop.time(), url))
        await asyncio.sleep(self.latency_s)
        if self._loop.time() < self.fails_until[url]:
            raise self.failure
        body = self.bodies[self.serves(url)]
        etag = hashlib.sha256(body).hexdigest()
        if validators and validators.etag == etag:
            return NotModified()
        return Fetched(body, Validators(url=url, etag=etag))


class View:
    """One pod's way to upstream: for a while, its edge serves something older than the others'."""

    def __init__(self, optimizely: Optimizely) -> None:
        self._optimizely = optimizely
        self.stale_until = 0.0
        self.fetches: list[float] = []

    def url(self, sdk_key: str) -> str:
        return self._optimizely.url(sdk_key)

    def permitted(self, url: str, sdk_key: str) -> bool:
        return self._optimizely.permitted(url, sdk_key)

    async def fetch(
        self, url: str, *, sdk_key: str, validators: Validators | None = None, token: str | None = None, **_: object
    ) -> Fetched | NotModified:
        """Ask the stale edge, or the true one."""
        optimizely = self._optimizely
        self.fetches.append(optimizely._loop.time())
        if optimizely._loop.time() >= self.stale_until:
            return await optimizely.fetch(url, sdk_key=sdk_key, validators=validators, token=token)
        optimizely.fetches.append((optimizely._loop.time(), url))
        await asyncio.sleep(optimizely.latency_s)
        body = optimizely.bodies[min(optimizely.bodies)]
        return Fetched(body, Validators(url=url, etag=hashlib.sha256(body).hexdigest()))


class ModelBroker:
    """What a broker keeps for one key."""

    def __init__(self) -> None:
        self.value: Record | None = None
        self.check: Check | None = None
        self.claimed_until = 0.0
        self.chased_until = 0.0
        self.chase_questions = 0
        self.claimed_by: ModelBus | None = None
        self.lines: list[ModelBus] = []


class ModelBus:
    """One pod's line to it, with the surface of `Bus`. Each thing takes a moment; a line that is down does nothing."""

    def __init__(self, loop: VirtualTimeLoop, broker: ModelBroker) -> None:
        self._loop, self._broker = loop, broker
        self._member: Member | None = None
        self.is_connected = True
        broker.lines.append(self)

    def join(self, _: str, member: Member) -> None:
        """Subscribe, read, seed."""
        self._member = member
        self._later(self._begin)

    def share(self, _: str) -> None:
        self._later(self._put)

    def overwrite(self, _: str, bad: bytes) -> None:
        self._later(lambda: self._put(bad))

    def report_check(self, _: str, check: Check) -> None:
        self._later(lambda: self._told(check))

    def release_lease(self, _: str, *, at_once: bool = True) -> None:
        self._later(lambda: self._end_claim() if at_once and self._broker.claimed_by is self else None)

    async def chase_lease(self, _: str, lease_s: float) -> bool:
        await asyncio.sleep(HOP_S)
        broker, now = self._broker, self._loop.time()
        if not self.is_connected:
            return True
        broker.chase_questions += 1
        if now < broker.chased_until:
            return False
        broker.chased_until = now + lease_s
        return True

    async def poll_lease(self, _: str, suits: Callable[[Check], bool], lease_s: float | None) -> Check | Lease:
        await asyncio.sleep(HOP_S)
        broker, now = self._broker, self._loop.time()
        if not self.is_connected:
            return Lease.OURS
        if broker.check and suits(broker.check):
            return broker.check
        if lease_s is None:
            return Lease.OURS
        if now < broker.claimed_until:
            return Lease.OTHERS
        broker.claimed_until, broker.claimed_by = now + lease_s, self
        return Lease.OURS

    def connect(self) -> None:
        """The line is mended."""
        self.is_connected = True
        self._later(self._begin)

    def cut(self) -> None:
        """The line is down, and that was noticed."""
        self.is_connected = False
        if self._member:
            self._member.receive(None)

    def leave(self) -> None:
        """The pod is gone."""
        self._broker.lines.remove(self)
        self._member = None

    def _later(self, work: Callable[[], None]) -> None:
        self._loop.call_later(HOP_S, lambda: work() if self.is_connected and self._member else None)

    def _begin(self) -> None:
        assert self._member
        self._read()
        self._put()
        self._member.receive(None)

    def _read(self) -> None:
        value = self._broker.value
        if self._member and value and self._member.wants(value.head):
            self._member.receive(value)

    def _put(self, bad: bytes | None = None) -> None:
        assert self._member
        mine, there = self._member.held(), self._broker.value
        if mine is None or (
            there and there.line != bad and not bus_record.is_newer(mine, there.head, self._loop.time())
        ):
            return
        # On the virtual clock, work for threads is done at once, so this coroutine never waits.
        try:
            self._member.body(mine.sha256).send(None)
        except StopIteration as done:
            if (body := done.value) is not None:
                self._broker.value = bus_values.read(bus_values.value(mine, body))
                for line in self._broker.lines:
                    line._later(line._read)

    def _told(self, check: Check) -> None:
        self._broker.check = check
        self._end_claim()

    def _end_claim(self) -> None:
        self._broker.claimed_until, self._broker.claimed_by = 0.0, None


class Pod:
    """One sidecar's loop, on a volume of its own."""

    def __init__(self, number: int, fleet: "Fleet", offset: float) -> None:
        self._fleet = fleet
        self._number = number
        self._offset = offset
        self.directory = fleet.directory / str(number)
        self.publications: list[Status] = []
        self.view = View(fleet.optimizely)
        self.begin()

    def begin(self) -> None:
        fleet = self._fleet
        self.volume = WatchedVolume(self.directory)
        self.volume.published = self.publications
        telemetry = Telemetry(logs.configure("info", "json", fleet.log), fleet.loop.time)
        random = Random(self._number)
        self.bus = ModelBus(fleet.loop, fleet.broker)
        fetcher = Fetcher(
            KEY,
            source=lambda: (self.view, None),  # type: ignore[arg-type, return-value]
            poll_interval_s=POLL_S,
            random=random,
            telemetry=telemetry,
        )
        self.syncer = KeySyncer(
            store=KeyStore(KEY, self.volume, fleet.loop.time, fleet.loop.time),
            fetcher=fetcher,
            bus=self.bus,  # type: ignore[arg-type]
            bootstrap=Bootstrap(None, 5.0, telemetry),
            pace=Pace(POLL_S, self._offset),
            policy=AdmissionPolicy(RollbackPolicy.of(ROLLBACK_S, POLL_S)),
            random=random,
            telemetry=telemetry,
        )
        self.task = fleet.loop.create_task(self.syncer.run())

    def end(self) -> None:
        self.task.cancel()
        self._fleet.loop.run_until_complete(asyncio.gather(self.task, return_exceptions=True))
        self.bus.leave()
        self.volume.close()

    @property
    def body(self) -> bytes | None:
        """What a reader of its volume gets."""
        try:
            return (self.directory / f"{KEY}.json").read_bytes()
        except FileNotFoundError:
            return None


class Fleet:
    """Pods, broker and upstream on one clock."""

    def __init__(self, pods: int = PODS) -> None:
        self.loop = VirtualTimeLoop()
        self.optimizely = Optimizely(self.loop)
        self.broker = ModelBroker()
        self.directory = Path(tempfile.mkdtemp(dir=MEMORY))
        self.log = open(self.directory / "log", "w")  # noqa: SIM115 - closed in `close`
        self.pods = [Pod(number, self, number / pods) for number in range(pods)]

    def wait(self, seconds: float) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))

    def announce(self, pod: Pod, revision: int, trigger: Trigger) -> None:
        async def inside() -> None:
            pod.syncer.announce(revision, (ORIGIN, CDN), trigger)

        self.loop.run_until_complete(inside())

    def close(self) -> None:
        for pod in self.pods:
            pod.end()
        self.loop.close()
        self.log.close()
        shutil.rmtree(self.directory)


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    fleet = Fleet()
    fleet.wait(2)
    yield fleet
    fleet.close()


def test_one_webhook_is_one_fetch_for_all(fleet: Fleet) -> None:
    """The pod that got it fetches at once; the relayed ones and the untold one have it by the bus, without a fetch."""
    fleet.optimizely.issue(11)
    fleet.optimizely.history[ORIGIN].append((0, 11))
    fleet.optimizely.fetches.clear()
    fleet.announce(fleet.pods[0], 11, Trigger.WEBHOOK)
    fleet.announce(fleet.pods[1], 11, Trigger.PEER)
    fleet.wait(0.1)
    assert [pod.body for pod in fleet.pods] == [fleet.optimizely.bodies[11]] * PODS
    assert [pod.syncer.status()["trigger"] for pod in fleet.pods] == ["webhook", "bus", "bus"]
    fleet.wait(1)
    assert len(fleet.optimizely.fetches) == 1


def test_a_relayed_webhook_waits_for_the_bus_half_a_second_and_no_longer(fleet: Fleet) -> None:
    """Where the pod that got it dies, the others fetch for themselves; where there is no bus, at once."""
    fleet.optimizely.issue(11)
    fleet.optimizely.history[CDN].append((0, 11))
    fleet.pods[2].bus.cut()
    fleet.announce(fleet.pods[1], 11, Trigger.PEER)
    fleet.announce(fleet.pods[2], 11, Trigger.PEER)
    fleet.wait(0.45)
    assert [pod.body == fleet.optimizely.bodies[11] for pod in fleet.pods] == [False, False, True]
    fleet.wait(0.4)
    assert fleet.pods[1].body == fleet.optimizely.bodies[11]


def test_a_direct_webhook_waits_for_nobody(fleet: Fleet) -> None:
    """Relayed first, then direct: the grace is over at once."""
    fleet.optimizely.issue(11)
    fleet.optimizely.history[ORIGIN].append((0, 11))
    fleet.announce(fleet.pods[1], 11, Trigger.PEER)
    fleet.wait(0.05)
    fleet.announce(fleet.pods[1], 11, Trigger.WEBHOOK)
    fleet.wait(0.1)
    assert fleet.pods[1].body == fleet.optimizely.bodies[11]


def test_a_check_of_other_bytes_stands_for_nothing(fleet: Fleet) -> None:
    """Nor does one of the future, or one that is older than an interval: each pod then polls by itself."""
    for pod in fleet.pods[1:]:
        pod.bus.cut()
    for revision, sha256, age_s in ((11, "a" * 64, 0.0), (12, "", -50.0), (13, "", POLL_S + 20)):
        fleet.optimizely.issue(revision)
        fleet.optimizely.history[CDN].append((0, revision))
        for _ in range(70):
            have = hashlib.sha256(fleet.pods[0].body or b"").hexdigest()
            fleet.broker.check = Check(at=fleet.loop.time() - age_s, sha256=sha256 or have)
            fleet.wait(1)
        assert fleet.pods[0].body == fleet.optimizely.bodies[revision]


def test_a_pod_that_comes_back_takes_no_check_from_yesterday(fleet: Fleet) -> None:
    """What was kept is younger than nothing, so only a check of the last interval spares the first look at upstream."""
    pod = fleet.pods[0]
    for other in fleet.pods[1:]:
        other.bus.cut()
    pod.end()
    fleet.wait(10 * POLL_S)
    fleet.broker.check = Check(at=fleet.loop.time() - 2 * POLL_S, sha256=hashlib.sha256(pod.body or b"").hexdigest())
    fleet.optimizely.fetches.clear()
    pod.begin()
    fleet.wait(1)
    assert len(fleet.optimizely.fetches) == 1


def test_what_vouched_for_replaced_bytes_vouches_for_nothing(fleet: Fleet) -> None:
    """A CDN that goes on to say "not modified" of an old revision does not confirm the one that came by the bus."""
    fleet.optimizely.issue(11)
    fleet.optimizely.history[ORIGIN].append((0, 11))
    fleet.announce(fleet.pods[0], 11, Trigger.WEBHOOK)
    fleet.wait(2 * POLL_S)
    for pod in fleet.pods:
        assert pod.body == fleet.optimizely.bodies[11]
        assert "older than 11" in pod.syncer.status()["last_error"]


def test_while_upstream_insists_each_pod_hears_it_for_itself(fleet: Fleet) -> None:
    """No check on the bus stands for the answers that a rollback needs: each pod polls at each interval and believes it in time."""
    begun = fleet.loop.time()
    fleet.optimizely.issue(7)
    fleet.optimizely.history[CDN].append((begun, 7))
    fleet.wait(4 * POLL_S)
    fleet.optimizely.fetches.clear()
    fleet.wait(ROLLBACK_S - 4 * POLL_S)
    assert not any(pod.body == fleet.optimizely.bodies[7] for pod in fleet.pods)
    assert len(fleet.optimizely.fetches) <= PODS * (ROLLBACK_S / POLL_S - 3)
    fleet.wait(3 * POLL_S)
    assert all(pod.body == fleet.optimizely.bodies[7] for pod in fleet.pods)


def test_no_claim_keeps_a_pod_from_polling_for_long(fleet: Fleet) -> None:
    """A claim that never ends costs two and a half intervals, once."""
    fleet.broker.claimed_until = float("inf")
    fleet.optimizely.fetches.clear()
    fleet.wait(3 * POLL_S)
    assert fleet.optimizely.fetches
    assert fleet.broker.claimed_until == 0.0


def test_a_stale_view_of_one_pod_holds_the_others_back_for_a_few_intervals_only(fleet: Fleet) -> None:
    """Without any webhook, the pods whose edge has the new revision find it, at no more than two polls an interval."""
    fleet.pods[0].view.stale_until = float("inf")
    fleet.wait(2 * POLL_S)
    fleet.optimizely.issue(11)
    for place in (CDN, ORIGIN):
        fleet.optimizely.history[place].append((fleet.loop.time(), 11))
    fleet.optimizely.fetches.clear()
    fleet.wait(6 * POLL_S)
    assert [pod.body for pod in fleet.pods] == [fleet.optimizely.bodies[11]] * PODS
    assert len(fleet.optimizely.fetches) <= 2 * 6 + 2


def test_a_pod_that_comes_back_learns_from_the_bus_what_was_left(fleet: Fleet) -> None:
    """What a rollback went away from is not published by a pod whose own memory of it is lost."""
    fleet.optimizely.issue(9)
    for place in (CDN, ORIGIN):
        fleet.optimizely.history[place] = [(0.0, 9)]
    fleet.wait(ROLLBACK_S + 4 * POLL_S)
    pod = fleet.pods[0]
    pod.end()
    status = json.loads((pod.directory / f"{KEY}.status.json").read_text())
    del status["rolled_back_from"]
    (pod.directory / f"{KEY}.status.json").write_text(json.dumps(status))
    pod.begin()
    fleet.wait(2)
    fleet.optimizely.history[CDN].append((fleet.loop.time(), 10))
    fleet.announce(pod, 11, Trigger.WEBHOOK)
    fleet.wait(5)
    assert pod.body == fleet.optimizely.bodies[9]


pods = st.integers(0, PODS - 1)


@settings(max_examples=30, stateful_step_count=30, deadline=None)
class AnyFleet(RuleBasedStateMachine):
    """Random news, faults and restarts for all pods. When it is quiet, they agree with upstream and with each other."""

    def __init__(self) -> None:
        super().__init__()
        self.fleet = Fleet()
        self.newest = 10
        self.last: dict[int, Status] = {}

    @property
    def now(self) -> float:
        return self.fleet.loop.time()

    @rule(
        cdn_s=st.sampled_from([0, 0, 1, 30]),
        origin_s=st.sampled_from([0, 0, 1, 30]),
        told=st.lists(pods, max_size=2),
        relayed=st.booleans(),
    )
    def change(self, cdn_s: float, origin_s: float, told: list[int], relayed: bool) -> None:
        """A flag is flipped; its webhook comes to some pod, which may relay it, or to nobody."""
        self.newest += 1
        self.fleet.optimizely.issue(self.newest)
        self.fleet.optimizely.history[CDN].append((self.now + cdn_s, self.newest))
        self.fleet.optimizely.history[ORIGIN].append((self.now + origin_s, self.newest))
        for number in told:
            self.fleet.announce(self.fleet.pods[number], self.newest, Trigger.WEBHOOK)
        for pod in self.fleet.pods if relayed and told else []:
            self.fleet.announce(pod, self.newest, Trigger.PEER)

    @rule(for_s=st.sampled_from([1, 30, 300]), back=st.integers(1, 3))
    def stale_edge(self, for_s: float, back: int) -> None:
        """For a while, the CDN serves something older again."""
        old = max((r for r in self.fleet.optimizely.bodies if r <= self.newest - back), default=self.newest)
        self.fleet.optimizely.history[CDN] += [(self.now, old), (self.now + for_s, self.newest)]

    @rule(number=pods, for_s=st.sampled_from([30, 400, 2000]))
    def stale_view(self, number: int, for_s: float) -> None:
        """One pod is sent to an edge that is stuck at the very first revision."""
        self.fleet.pods[number].view.stale_until = self.now + for_s

    @rule(place=st.sampled_from([CDN, ORIGIN]), for_s=st.sampled_from([1, 20, 200]))
    def outage(self, place: str, for_s: float) -> None:
        """One place answers with errors for a while."""
        self.fleet.optimizely.fails_until[place] = self.now + for_s

    @rule(number=pods)
    def cut(self, number: int) -> None:
        """A pod loses the bus."""
        self.fleet.pods[number].bus.cut()

    @rule(number=pods)
    def mend(self, number: int) -> None:
        """And has it again."""
        self.fleet.pods[number].bus.connect()

    @rule()
    def wipe(self) -> None:
        """The broker forgets everything, and nobody notices."""
        self.fleet.broker.value = self.fleet.broker.check = None
        self.fleet.broker.claimed_until = 0.0

    @rule()
    def jam(self) -> None:
        """A claim stands in the broker that never ends."""
        self.fleet.broker.claimed_until = float("inf")

    @rule(number=pods, empty=st.booleans())
    def restart(self, number: int, empty: bool) -> None:
        """A pod dies and comes back, or another one comes in its place, with an empty volume."""
        pod = self.fleet.pods[number]
        pod.end()
        if empty:
            shutil.rmtree(pod.directory)
            self.last.pop(number, None)
        pod.begin()

    @precondition(lambda self: self.newest > 12)
    @rule()
    def restore_project(self) -> None:
        """The project is restored: everywhere, for good, an older revision is the newest."""
        self.newest = max(r for r in self.fleet.optimizely.bodies if r <= self.newest - 2)
        for place in (CDN, ORIGIN):
            self.fleet.optimizely.history[place] = [(0.0, self.newest)]

    @rule(seconds=st.sampled_from([0.005, 0.2, 3.0, 61.0, 400.0]))
    def time_passes(self, seconds: float) -> None:
        """Nothing happens, for a moment or for minutes."""
        self.fleet.wait(seconds)

    @invariant()
    def none_goes_back(self) -> None:
        """No pod publishes anything older than before, but in a later generation."""
        for number, pod in enumerate(self.fleet.pods):
            for status in pod.publications:
                last = self.last.get(number)
                if last:
                    assert (status.generation, status.revision) >= (last.generation, last.revision)
                self.last[number] = status
            pod.publications.clear()

    @invariant()
    def every_file_is_valid(self) -> None:
        """A reader of any volume finds a datafile that upstream once served, whole, or none yet."""
        for pod in self.fleet.pods:
            if (body := pod.body) is not None:
                datafile.parse(body, KEY)

    @invariant()
    def all_loops_go_on(self) -> None:
        """No order of events ends one."""
        assert not any(pod.task.done() for pod in self.fleet.pods)

    def teardown(self) -> None:
        """When all is quiet, all have what upstream serves, agree on the generation, and cost the CDN two polls an interval."""
        fleet = self.fleet
        for place in (CDN, ORIGIN):
            fleet.optimizely.history[place] = [(0.0, self.newest)]
            fleet.optimizely.fails_until[place] = 0.0
        for pod in fleet.pods:
            pod.view.stale_until = 0.0
            pod.bus.connect()
        try:
            fleet.wait(ROLLBACK_S + 6 * POLL_S)
            for pod in fleet.pods:
                assert pod.body == fleet.optimizely.bodies[self.newest]
                pod.publications.clear()
            assert len({pod.syncer.status()["generation"] for pod in fleet.pods}) == 1
            fleet.optimizely.fetches.clear()
            fleet.wait(10 * POLL_S)
            assert 8 <= len(fleet.optimizely.fetches) <= 2 * 10
            assert all(pod.publications == [] for pod in fleet.pods)
        finally:
            fleet.close()


TestAnyFleet = AnyFleet.TestCase
