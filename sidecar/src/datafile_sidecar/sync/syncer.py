"""One loop per SDK key: wait for a reason, fetch, decide, publish.

`KeySyncer` is the only object that holds and writes a key's `State` and `Timers`; the core says what the next ones are. A webhook
is noted and wakes the loop; nothing of the work is done inside a request. Times are those of the event loop.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from datafile_sidecar.bus import Bus, Lease
from datafile_sidecar.core import backoff, gate, reconcile, schedule
from datafile_sidecar.core.bus_record import Head, Record
from datafile_sidecar.core.datafile import Datafile, InvalidDatafileError
from datafile_sidecar.core.gate import AdmissionPolicy, Verdict
from datafile_sidecar.core.schedule import Action, Pace
from datafile_sidecar.core.state import Candidate, Source, State, Trigger, Version
from datafile_sidecar.observe.telemetry import Telemetry
from datafile_sidecar.sync.alarm import Alarm
from datafile_sidecar.sync.bootstrap import Bootstrap
from datafile_sidecar.sync.fetcher import Fetcher
from datafile_sidecar.sync.replica import Replica, candidate_of, head_of
from datafile_sidecar.sync.store import KeyStore
from datafile_sidecar.upstream import FetchError
from datafile_sidecar.volume.directory import VolumeError


@dataclass(eq=False, kw_only=True, slots=True)
class KeySyncer:
    """Keeps the datafile of one SDK key fresh on the volume. It is the key's `bus.Member`."""

    store: KeyStore
    fetcher: Fetcher
    bus: Bus | None
    bootstrap: Bootstrap
    pace: Pace
    policy: AdmissionPolicy
    random: Random
    telemetry: Telemetry
    on_published: Callable[[int, float], None] = lambda _, __: None
    """Takes each revision and when it was renamed into place (`time.monotonic` seconds)."""
    sdk_key: str = field(init=False)
    _replica: Replica = field(init=False)
    _candidate: Record | None = field(default=None, init=False)
    _state: State = field(default_factory=State, init=False)
    _alarm: Alarm = field(default_factory=Alarm, init=False)

    def __post_init__(self) -> None:
        self.sdk_key = self.store.sdk_key
        self._replica = Replica(self.sdk_key, self.bus)
        if self.bus is not None:
            self.bus.join(self.sdk_key, self)

    @property
    def is_alive(self) -> bool:
        """Whether the loop turns as it should, whatever upstream does."""
        return not self._alarm.is_stuck

    @property
    def problem(self) -> str | None:
        """Why there is no valid file on the volume, None where there is one."""
        return self._state.problem

    def status(self) -> dict[str, Any]:
        """Return this key's part of `/status`."""
        return self.store.view(target=self._state.target, error=self._state.error)

    # What a webhook says

    def announce(self, revision: int, urls: tuple[str, ...], trigger: Trigger) -> bool:
        """Note that a webhook named a revision of this key; tell whether the loop is awake for it now."""
        before = self._hear(reconcile.announce(self._state, revision, _now(), trigger), trigger)
        if self._state.announced != before.announced:
            self.fetcher.add_urls(urls)
            self.fetcher.end_backoff()
            self.telemetry.target_changed(self.sdk_key, self._state.target or 0)
        return any(a.revision == revision for a in self._state.announced)

    def hint(self, trigger: Trigger) -> None:
        """Note that a webhook came that may mean this key, and wake the loop to look."""
        if self._hear(reconcile.hint(self._state, _now(), trigger), trigger).hint is None:
            self.fetcher.end_backoff()

    def retry(self) -> None:
        """Ask the sources again that back off: what kept upstream from serving us may have changed."""
        self.fetcher.end_backoff()
        self._alarm.wake()

    def _hear(self, after: State, trigger: Trigger) -> State:
        """Take the state after a webhook, and wake the loop if that asks for a fetch; return the state before."""
        before, has_bus = self._state, self._replica.is_connected
        self._state = schedule.woken(before, after, _now(), trigger, self.random.random(), has_bus=has_bus)
        self.store.note_webhook()
        if after.fetch_now:
            if trigger is not Trigger.PEER:
                self._replica.hurry()
            self._alarm.wake(busy=True)
        return before

    # The loop

    async def run(self) -> None:
        """Load what is there, then sync for ever; beside it, wait for the moment of the bootstrap file."""
        self._alarm.work()
        await self._load()
        self._state = schedule.started(self._state, _now(), has_bus=self.bus is not None)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.bootstrap.run(self.sdk_key, lambda: self.problem is not None, self._begin_with))
            while True:
                await self._act(await self._next_action())
                self._state = schedule.planned(self._state, self.pace, _now(), self.random.random)

    async def settle(self) -> None:
        """Return when the loop has nothing to do. Accepted work gets this moment when the process ends."""
        await self._alarm.idle()

    async def _next_action(self) -> Action:
        """Wait until something is due."""
        while True:
            await self._look_around()
            has_candidate = self._candidate is not None
            at, action = schedule.next_action(self._state, self.fetcher.available_at(), has_candidate=has_candidate)
            if (wait_s := at - _now()) <= 0:
                self._alarm.work()
                return action
            await self._alarm.wait(wait_s)

    async def _act(self, action: Action) -> None:
        if action is Action.ADMIT and (record := self._candidate):
            self._candidate = None
            await self._take_from_bus(record)
        elif action is Action.FETCH or not await self._is_spared():
            await self._fetch()
        if not self._state.announced:
            self.fetcher.only_cdn()

    async def _look_around(self) -> None:
        """Note what time has brought about: announcements that are overdue, and a file that somebody removed."""
        self._state, overdue = reconcile.expire(self._state, _now())
        for one in overdue:
            self.telemetry.webhook_overdue(self.sdk_key, one.revision, self._state.revision, _now() - one.at)
            self.telemetry.target_changed(self.sdk_key, self._state.target or 0)
        if self._state.published is not None and not await self.store.is_intact():
            self._state = reconcile.missing(self._state)
            self.fetcher.forget_validators()
            self.telemetry.datafile_lost(self.sdk_key)

    # The volume

    async def _load(self) -> None:
        try:
            kept = await self.store.load()
        except (VolumeError, InvalidDatafileError) as problem:
            self._state = reconcile.unusable(self._state, str(problem))
            self.telemetry.datafile_unusable(self.sdk_key, "volume", str(problem))
            return
        if kept is not None:
            datafile, generation = kept
            self._state = reconcile.loaded(self._state, version_of(datafile), generation, self.store.fetched)
            self.telemetry.datafile_loaded(self.sdk_key, datafile.revision, self.store.checked)

    async def _admit(self, candidate: Candidate, trigger: Trigger, datafile: Datafile | None = None) -> Verdict | None:
        """Let the gate decide about a candidate, and do what it says; None where the volume could not be written to."""
        try:
            async with self.store.write_lock:
                verdict = gate.admit(self._state, candidate, _now(), self.policy)
                if datafile is not None and verdict in {Verdict.PUBLISH, Verdict.ROLL_BACK}:
                    await self._publish(candidate.dated(self.store.now()), verdict, trigger, datafile)
                else:
                    self._state = reconcile.admitted(self._state, candidate, verdict, _now(), self.policy)
                    if verdict is Verdict.UNCHANGED and candidate.source is Source.UPSTREAM:
                        await self.store.confirm(candidate.fetched)
                        self.telemetry.datafile_checked(self.sdk_key, candidate.fetched)
        except VolumeError as problem:
            wait_s = backoff.failure_pause(self._state.write_failures + 1, self.random.random())
            self._state = reconcile.write_failed(self._state, str(problem), _now() + wait_s)
            self.telemetry.publish_failed(self.sdk_key, str(problem), wait_s)
            return None
        self._state = reconcile.written(self._state)
        return verdict

    async def _publish(self, candidate: Candidate, verdict: Verdict, trigger: Trigger, datafile: Datafile) -> None:
        generation = reconcile.published(self._state, candidate, _now()).generation
        renamed_at = await self.store.publish(datafile, trigger, generation, fetched=candidate.fetched)
        before = self._state  # with what came while the file was written
        self._state = reconcile.admitted(before, candidate, verdict, _now(), self.policy)
        announced = reconcile.fulfilled(before, datafile.revision)
        took_s = _now() - announced.at if announced and trigger is not Trigger.BOOTSTRAP else None
        self.store.note_change(took_s)
        self.on_published(datafile.revision, renamed_at)
        revision, target = datafile.revision, self._state.target or 0
        self.telemetry.datafile_published(
            self.sdk_key, revision=revision, target=target, trigger=trigger, size=datafile.size, propagation_s=took_s
        )
        if candidate.fetched is not None:
            self.telemetry.datafile_checked(self.sdk_key, candidate.fetched)
        if verdict is Verdict.ROLL_BACK:
            self.telemetry.datafile_rolled_back(self.sdk_key, revision, before.revision)
        if reconcile.is_missed(before, revision, trigger):
            self.telemetry.webhook_missed(self.sdk_key, revision)

    async def _begin_with(self, bootstrap: Datafile) -> bool:
        """Publish the bootstrap file, unless something better is there; False where the volume failed."""
        candidate = Candidate(version_of(bootstrap), Source.BOOTSTRAP)
        return await self._admit(candidate, Trigger.BOOTSTRAP, bootstrap) is not None

    # Upstream and other pods

    async def _fetch(self) -> None:
        trigger, before = self._state.trigger, self._state.published
        self._state = reconcile.begin_fetch(self._state)
        try:
            result = await self.fetcher.fetch()
        except FetchError as error:
            self._state = reconcile.fetch_failed(self._state, error.reason, _now())
            self._replica.fetch_failed()
            return
        version = version_of(result.datafile) if result and result.datafile else self._state.published
        if result is None or version is None:
            return
        verdict = await self._admit(Candidate(version, Source.UPSTREAM), trigger, result.datafile)
        if verdict is Verdict.REFUSE:
            self.telemetry.datafile_refused(self.sdk_key, result.source, version.revision, self._state.revision)
        if verdict in {Verdict.REFUSE, None}:
            return
        replaced = self._state.published != before
        self.fetcher.remember(result.validators, replaced=replaced, url=result.url)
        # A check of the old bytes helps no other pod while something newer is announced.
        if replaced or not self._state.announced:
            self._replica.share(self.held(), self.store.checked)
        if reconcile.is_outvoted(self._state, _now(), self.policy.rollback):
            self._state = reconcile.outvoted(self._state)
            self._replica.overwrite_held()

    async def _is_spared(self) -> bool:
        """Tell whether another pod makes the fetch that is due: a poll, or the first look at what was kept."""
        answer = await self._replica.ask_pods(self._state, self.pace, self.store.checked, self.store.now())
        version = self._state.published
        if answer is Lease.OURS or self._state.announced or self._state.hint or version is None:
            return False
        self._state = reconcile.begin_fetch(self._state)
        if answer is Lease.OTHERS:
            self._state = schedule.look_again(self._state, self.pace, _now(), self.random.random())
        elif await self._admit(Candidate(version, Source.UPSTREAM, answer.at), Trigger.POLL):
            self.fetcher.remember(answer.validators, replaced=False)
            self.telemetry.poll_spared(self.sdk_key)
        return True

    async def _take_from_bus(self, record: Record) -> None:
        verdict = await self._admit(candidate_of(record.head, self.store.now()), Trigger.BUS, record.datafile)
        if verdict is Verdict.PUBLISH:
            self.fetcher.remember(record.head.validators, replaced=True)
        elif verdict is Verdict.HOLD:
            self._replica.hold(record)
            self.telemetry.bus_record_questioned(self.sdk_key, record.head.revision, self._state.revision)

    # What the bus asks and brings (see `bus.Member`)

    def held(self) -> Head | None:
        """Describe what is published, None where upstream never served it."""
        return head_of(self._state, self.fetcher.validators)

    async def body(self, head: Head) -> bytes | None:
        """Return the bytes of that datafile, None where they are not on the volume any more."""
        return await self.store.body(head.sha256)

    def wants(self, head: Head) -> bool:
        """Tell whether the datafile under this head is worth reading."""
        return gate.is_useful(self._state, candidate_of(head, self.store.now()))

    def receive(self, record: Record | None) -> None:
        """Wake the loop for a datafile that came, or, with None, because the bus has said all that it has."""
        if record is not None:
            self._candidate = record
        else:
            self._state = schedule.bus_answered(self._state)
        self._alarm.wake()


def version_of(datafile: Datafile) -> Version:
    """Return what the core knows of a datafile."""
    return Version(datafile.revision, datafile.sha256)


def _now() -> float:
    return asyncio.get_running_loop().time()
