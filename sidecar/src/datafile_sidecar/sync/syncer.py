"""One loop per SDK key: wait for a reason, fetch, decide, publish.

`KeySyncer` is the only object that holds and writes a key's `State` and `Timers`; the core says what the next ones are. A webhook
is noted and wakes the loop; nothing of the work is done inside a request. Times are those of the event loop.
"""

import asyncio
import contextlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from datafile_sidecar.bus import Bus, Lease
from datafile_sidecar.core import backoff, gate, reconcile, schedule
from datafile_sidecar.core.bus_message import Change
from datafile_sidecar.core.bus_record import Head, Record
from datafile_sidecar.core.datafile import Datafile
from datafile_sidecar.core.gate import AdmissionPolicy, Verdict
from datafile_sidecar.core.schedule import Action, Pace
from datafile_sidecar.core.state import Announcement, Candidate, Source, State, Trigger, Version
from datafile_sidecar.network.turns import Urgency
from datafile_sidecar.observe.telemetry import Telemetry
from datafile_sidecar.sync.alarm import Alarm
from datafile_sidecar.sync.bootstrap import Bootstrap
from datafile_sidecar.sync.comparisons import Replacement
from datafile_sidecar.sync.fetcher import Fetcher
from datafile_sidecar.sync.replica import Replica, candidate_of, head_of
from datafile_sidecar.sync.store import Kept, KeyStore
from datafile_sidecar.upstream import FetchError
from datafile_sidecar.volume.directory import VolumeError

_CHECKS_OF_ONE_POD = 2


@dataclass(eq=False, kw_only=True, slots=True)
class KeySyncer:
    """Keeps the datafile of one SDK key fresh on the volume, and alone writes its `state`. It is the key's `bus.Member`."""

    store: KeyStore
    fetcher: Fetcher
    bus: Bus | None
    bootstrap: Bootstrap
    pace: Pace
    policy: AdmissionPolicy
    random: Random
    telemetry: Telemetry
    ask_peers: Callable[[str], bool] = lambda _: False
    """Called with the key where nothing was kept; tells whether peers are asked: then `expect` and `receive` are called."""
    compare: Callable[[Replacement], None] = lambda _: None  # called after a publication
    sdk_key: str = field(init=False)
    _replica: Replica = field(init=False)
    state: State = field(default_factory=State, init=False)
    _alarm: Alarm = field(default_factory=Alarm, init=False)

    def __post_init__(self) -> None:
        self.sdk_key = self.store.sdk_key
        self._replica = Replica(self.sdk_key, self.bus, self.fetcher.capacity.validations)
        if self.bus is not None:
            self.bus.join(self.sdk_key, self)

    @property
    def is_alive(self) -> bool:
        """Whether the loop turns as it should, whatever upstream does."""
        return not self._alarm.is_stuck

    def status(self) -> dict[str, Any]:
        """Return this key's part of `/status`."""
        return self.store.view(self.state)

    def expect(self, generation: int, revision: int) -> None:
        """Note the newest revision of the fleet, as a new pod hears it: in its first seconds, it publishes nothing older."""
        self.state = reconcile.expect(self.state, generation, revision)

    def announce(self, revision: int, urls: tuple[str, ...], trigger: Trigger) -> bool:
        """Note that a webhook named a revision of this key; tell whether the loop is awake for it now."""
        before = self._hear(reconcile.announce(self.state, revision, _now(), trigger), trigger)
        if self.state.announced != before.announced:
            self.fetcher.add_urls(urls)
            self.fetcher.end_backoff()
            self.telemetry.target_changed(self.sdk_key, self.state.target or 0)
        return any(a.revision == revision for a in self.state.announced)

    def withdraw(self, revision: int) -> bool:
        """Wait no longer for an announced revision; tell whether this key did."""
        before, self.state = self.state, reconcile.withdrawn(self.state, revision)
        self.telemetry.target_changed(self.sdk_key, self.state.target or 0)
        return self.state != before

    def hint(self, trigger: Trigger) -> None:
        """Note that a webhook came that may mean this key, and wake the loop to look."""
        if self._hear(reconcile.hint(self.state, _now(), trigger), trigger).hint is None:
            self.fetcher.end_backoff()

    def retry(self) -> None:
        """Ask the sources again that back off: what kept upstream from serving us may have changed."""
        self.fetcher.end_backoff()
        self._alarm.wake()

    def _hear(self, after: State, trigger: Trigger) -> State:
        """Take the state after a webhook, and wake the loop if that asks for a fetch; return the state before."""
        before, has_bus = self.state, self._replica.is_connected
        self.state = schedule.woken(before, after, _now(), trigger, self.random.random(), has_bus=has_bus)
        self.store.note_webhook()
        if after.fetch_now:
            if trigger is not Trigger.PEER:
                self._replica.hurry()
            self._alarm.wake(busy=True)
        return before

    async def run(self) -> None:
        """Load what is there, then sync for ever; beside it, wait for the moment of the bootstrap file."""
        self._alarm.work()
        await self._load()
        asks_peers = self.state.published is None and self.ask_peers(self.sdk_key)
        self.state = schedule.started(self.state, _now(), has_bus=self.bus is not None, asks_peers=asks_peers)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.bootstrap.run(self.sdk_key, lambda: bool(self.state.problem), self._begin_with))
            while True:
                await self._act(await self._next_action())
                self.state = schedule.planned(self.state, self.pace, _now(), self.random.random)

    async def settle(self) -> None:
        """Return when the loop has nothing to do. Accepted work gets this moment when the process ends."""
        await self._alarm.idle()

    async def _next_action(self) -> Action:
        """Wait until something is due, and until it is this key's turn."""
        while True:
            await self._look_around()
            has_candidate = self._replica.candidate is not None
            at, action = schedule.next_action(self.state, self.fetcher.available_at(), has_candidate=has_candidate)
            if (wait_s := self.fetcher.until_turn(at, action, self.state, self._alarm.wake)) <= 0:
                self._alarm.work()
                return action
            await self._alarm.wait(wait_s, busy=at <= _now())

    async def _act(self, action: Action) -> None:
        if action is Action.ADMIT and (record := self._replica.take()):
            await self._take_from_bus(record)
        elif action is Action.FETCH and not await self._replica.may_chase(self.state):
            self.state = schedule.chase_later(reconcile.begin_fetch(self.state), _now(), self.random.random())
        elif action is Action.FETCH or not await self._is_spared():
            await self._fetch()
        if not self.state.announced:
            self.fetcher.only_cdn()

    async def _look_around(self) -> None:
        """Note what time has brought about: overdue announcements, a file that was removed, a clock that was set back."""
        self.state, overdue = reconcile.expire(self.state, _now())
        _report_overdue(self, overdue)
        if self.state.on_volume is not None and not await self.store.is_intact():
            self.state = reconcile.missing(self.state, "the published file was removed or replaced")
            self.fetcher.forget_validators()
            self.telemetry.datafile_lost(self.sdk_key)
        with contextlib.suppress(VolumeError):
            if await self.store.follow_clock():
                self.telemetry.datafile_checked(self.sdk_key, self.store.checked)

    async def _load(self) -> None:
        kept = await self.fetcher.capacity.validations.run(Urgency.ROUTINE, self.store.load, self._alarm.work)
        if (record := kept.record) is not None:
            version, left = Version(record.revision, record.sha256), record.rolled_back_from
            self.state = reconcile.loaded(self.state, version, record.generation, left, record.fetched)
        if kept.problem is not None:
            self.state = reconcile.unusable(self.state, kept.problem)
        _report_kept(self, kept)

    async def _admit(self, candidate: Candidate, trigger: Trigger, datafile: Datafile | None = None) -> Verdict | None:
        """Let the gate decide about a candidate, and do what it says; None where the volume could not be written to."""
        try:
            async with self.store.write_lock:
                verdict = gate.admit(self.state, candidate, _now(), self.policy)
                if datafile is not None and verdict in {Verdict.PUBLISH, Verdict.ROLL_BACK}:
                    await self._publish(candidate.dated(self.store.now()), verdict, trigger, datafile)
                else:
                    self.state = reconcile.admitted(self.state, candidate, verdict, _now(), self.policy)
                    checked = candidate.dated(self.store.now()).fetched if candidate.source is Source.UPSTREAM else None
                    if verdict is Verdict.UNCHANGED:
                        await self.store.note(self.state.generation, self.state.rolled_back_from, checked)
                        self.telemetry.datafile_checked(self.sdk_key, self.store.checked)
        except VolumeError as problem:
            wait_s = backoff.failure_pause(self.state.write_failures + 1, self.random.random())
            self.state = reconcile.write_failed(self.state, str(problem), _now() + wait_s)
            self.telemetry.publish_failed(self.sdk_key, str(problem), wait_s)
            return None
        self.state = reconcile.written(self.state)
        return verdict

    async def _publish(self, candidate: Candidate, verdict: Verdict, trigger: Trigger, datafile: Datafile) -> None:
        after = reconcile.published(self.state, candidate, _now())
        left = after.rolled_back_from
        async with self._replica.noted_change(self.state, candidate, datafile, self.store.body):
            replaced = await self.store.publish(datafile, trigger, after.generation, left, fetched=candidate.fetched)
            before = self.state  # with what came while the file was written
            self.state = reconcile.admitted(before, candidate, verdict, _now(), self.policy)
            announced = reconcile.fulfilled(before, datafile.revision)
            took_s = _now() - announced.at if announced and trigger is not Trigger.BOOTSTRAP else None
            describe = self.store.note_change(took_s)
            _report(self, before, Publication(datafile, verdict, trigger, candidate.fetched, took_s))
            if replaced is not None and before.published is not None:
                self.compare(Replacement(self.sdk_key, before.published, version_of(datafile), replaced, describe))

    async def _begin_with(self, bootstrap: Datafile) -> bool:
        """Publish the bootstrap file, unless something better is there; False where the volume failed."""
        await asyncio.sleep(self.state.expects_until - _now())
        return (
            await self._admit(Candidate(version_of(bootstrap), Source.BOOTSTRAP), Trigger.BOOTSTRAP, bootstrap)
            is not None
        )

    async def _fetch(self) -> None:
        if self.fetcher.available_at() > _now():
            self._replica.fetch_failed()
            return
        trigger, before = self.state.trigger, self.state.on_volume
        self.state = reconcile.begin_fetch(self.state)
        try:
            result = await self.fetcher.fetch(is_announced=bool(self.state.announced), meanwhile=self._alarm.work)
        except FetchError as error:
            is_throttled = error.outcome == "throttled"
            self.state = reconcile.fetch_failed(self.state, error.reason, _now(), is_throttled=is_throttled)
            self._replica.fetch_failed(is_throttled=is_throttled)
            return
        version = version_of(result.datafile) if result and result.datafile else self.state.on_volume
        if result is None or version is None:
            return
        verdict = await self._admit(Candidate(version, Source.UPSTREAM), trigger, result.datafile)
        if verdict is Verdict.REFUSE:
            _report_refusal(self, result.source, version)
        if verdict in {Verdict.REFUSE, None}:
            return
        replaced = self.state.on_volume != before
        self.fetcher.remember(result.validators, replaced=replaced, url=result.url)
        # A check of the old bytes helps no other pod while something newer is announced.
        if replaced or not self.state.announced:
            self._replica.share(self.held(), self.store.checked)
        if reconcile.is_outvoted(self.state, _now(), self.policy.rollback):
            self.state = reconcile.outvoted(self.state)
            self._replica.overwrite_held()

    async def _is_spared(self) -> bool:
        """Tell whether another pod makes the fetch that is due: a poll, or the first look at what was kept."""
        most = _most_checks_of_one_pod(self.random, can_ask=self.fetcher.available_at() <= _now())
        answer = await self._replica.ask_pods(self.state, self.pace, self.store.checked, self.store.now(), most)
        if answer is Lease.OURS or self.state.announced or self.state.hint or (version := self.state.on_volume) is None:
            return False
        if answer is Lease.OTHERS:
            spared = reconcile.spared(self.state, None)
            self.state = schedule.look_again(spared, self.pace, _now(), self.random.random())
            return True
        self.state = reconcile.spared(self.state, answer.by)
        if await self._admit(Candidate(version, Source.UPSTREAM, answer.at), Trigger.POLL):
            self.fetcher.remember(answer.validators, replaced=False)
            self.telemetry.poll_spared(self.sdk_key)
        return True

    async def _take_from_bus(self, record: Record) -> None:
        verdict = await self._admit(candidate_of(record.head, self.store.now()), Trigger.BUS, record.datafile)
        if verdict is Verdict.PUBLISH:
            self.fetcher.remember(record.head.validators, replaced=True)
        elif verdict is Verdict.HOLD:
            self._replica.hold(record)
            self.telemetry.bus_record_questioned(self.sdk_key, record.head.revision, self.state.revision)

    # What the bus asks and brings (see `bus.Member`)

    def held(self) -> Head | None:
        """Describe what is published, None where upstream never served it."""
        return head_of(self.state, self.fetcher.validators)

    async def body(self, sha256: str) -> bytes | None:
        """Return the bytes with this digest, None where they are neither on the volume nor about to be."""
        return self._replica.candidate_body(sha256) or await self.store.settled_body(sha256)

    def change(self, head: Head) -> Change | None:
        """Return the change that led to the datafile with this head, None where it is not known."""
        return self._replica.change(head)

    def wants(self, head: Head) -> bool:
        """Tell whether the datafile under this head is worth reading. While it is read, a new pod publishes nothing older."""
        if is_wanted := gate.should_read(self.state, candidate_of(head, self.store.now()), _now(), self.policy):
            self.expect(head.generation, head.revision)
        return is_wanted

    def receive(self, record: Record | None) -> None:
        """Wake the loop for a datafile that came, or, with None, because other pods have said all that they have."""
        if record is None:
            self.state = schedule.bus_answered(self.state)
        self._replica.candidate = record or self._replica.candidate
        self._alarm.wake()

    def fetch_soon(self) -> None:
        """Ask upstream for what the bus announced and could not bring."""
        self.state = schedule.fetch_soon(self.state, self.pace, _now(), self.random.random())
        self._alarm.wake()


@dataclass(frozen=True, slots=True)
class Publication:
    """A datafile that was renamed into place. `propagation_s` is the time since its webhook, None where none announced it."""

    datafile: Datafile
    verdict: Verdict
    trigger: Trigger
    fetched: float | None
    propagation_s: float | None


def _report(syncer: KeySyncer, before: State, published: Publication) -> None:
    """Log and count a publication. `before` is what was known until then."""
    telemetry, key, revision, trigger = syncer.telemetry, syncer.sdk_key, published.datafile.revision, published.trigger
    target, size, took_s = syncer.state.target or 0, published.datafile.size, published.propagation_s
    telemetry.datafile_published(
        key, revision=revision, target=target, trigger=trigger, size=size, propagation_s=took_s
    )
    if published.fetched is not None:
        telemetry.datafile_checked(key, published.fetched)
    if published.verdict is Verdict.ROLL_BACK:
        telemetry.datafile_rolled_back(key, revision, before.revision)
    if reconcile.is_missed(before, revision, trigger):
        telemetry.webhook_missed(key, revision)


def _report_kept(syncer: KeySyncer, kept: Kept) -> None:
    """Log what an earlier sidecar left."""
    if kept.problem is not None:
        syncer.telemetry.datafile_unusable(syncer.sdk_key, "volume", kept.problem)
    elif kept.record is not None:
        syncer.telemetry.datafile_loaded(syncer.sdk_key, kept.record.revision, syncer.store.checked)


def _report_overdue(syncer: KeySyncer, overdue: tuple[Announcement, ...]) -> None:
    """Log the announcements that nothing is fetched for any more."""
    for one in overdue:
        syncer.telemetry.webhook_overdue(syncer.sdk_key, one.revision, syncer.state.revision, _now() - one.at)
        syncer.telemetry.target_changed(syncer.sdk_key, syncer.state.target or 0)


def _report_refusal(syncer: KeySyncer, source: str, version: Version) -> None:
    have, reason = syncer.state.revision, gate.refusal(syncer.state, version)
    syncer.telemetry.datafile_refused(syncer.sdk_key, source, version.revision, have, reason)


def version_of(datafile: Datafile) -> Version:
    """Return what the core knows of a datafile."""
    return Version(datafile.revision, datafile.sha256)


def _most_checks_of_one_pod(random: Random, *, can_ask: bool) -> int:
    """Return how many checks in a row by one other pod stand for ours: any number where no source of ours can be asked."""
    return _CHECKS_OF_ONE_POD + random.randrange(_CHECKS_OF_ONE_POD) if can_ask else sys.maxsize


def _now() -> float:
    return asyncio.get_running_loop().time()
