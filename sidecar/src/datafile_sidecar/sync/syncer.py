"""One loop per SDK key: wait until there is a reason, fetch, decide, publish. All news of a key end in its loop.

Nothing here runs inside a request: `notify` notes what a webhook said and wakes the loop. Times are those of the event loop.
"""

import asyncio
import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

from datafile_sidecar.bus import Bus
from datafile_sidecar.core import backoff, reconcile, webhook
from datafile_sidecar.core.datafile import InvalidDatafileError
from datafile_sidecar.core.patience import Patience
from datafile_sidecar.core.reconcile import Trigger
from datafile_sidecar.core.webhook import DatafileUpdated
from datafile_sidecar.observe.telemetry import Telemetry
from datafile_sidecar.sync.accord import Accord
from datafile_sidecar.sync.fetcher import Inquiry, parsed
from datafile_sidecar.sync.keeper import Keeper
from datafile_sidecar.sync.replica import Sharing
from datafile_sidecar.sync.store import Publication
from datafile_sidecar.upstream import FetchError

_STUCK_AFTER_S = 90.0


@dataclass(frozen=True, slots=True)
class Pace:
    """When to do what, in seconds. `offset` is this pod's place within a poll interval, 0 to 1."""

    poll_interval_s: float
    rollback_after_s: float
    bootstrap_after_s: float
    offset: float
    random: Random = field(default_factory=Random)


class Syncer:
    """Keeps the datafile of one SDK key fresh on the volume."""

    def __init__(
        self,
        publication: Publication,
        inquiry: Inquiry,
        *,
        bus: Bus | None,
        bootstrap: Callable[[], bytes | None],
        pace: Pace,
        telemetry: Telemetry,
    ) -> None:
        """`bootstrap` gives the bytes to begin with in an outage."""
        self.sdk_key = publication.sdk_key
        self._publication = publication
        self._inquiry = inquiry
        self._bootstrap = bootstrap
        self._pace = pace
        self._telemetry = telemetry
        patience = Patience.of(pace.rollback_after_s, pace.poll_interval_s)
        self._keeper = Keeper(publication, patience=patience, random=pace.random, telemetry=telemetry)
        self._wake = asyncio.Event()
        self._resting = asyncio.Event()
        self._chase_at = self._poll_at = math.inf
        self._turns_by = math.inf
        self._sharing = Sharing(
            publication,
            inquiry,
            bus,
            state=lambda: self._keeper.state,
            wake=self._wake.set,
            poll_interval_s=pace.poll_interval_s,
            random=pace.random,
        )
        self._accord = Accord(
            self.sdk_key, self._keeper, self._sharing, patience_s=pace.rollback_after_s, telemetry=telemetry
        )

    # What others ask

    @property
    def project_id(self) -> str | None:
        """The project of the datafile on the volume, None while there is none."""
        return self._publication.project_id

    @property
    def published(self) -> tuple[int | None, float | None]:
        """The revision on the volume, and when it was renamed into place, in Unix seconds."""
        return self._keeper.have, self._publication.moments.published

    @property
    def is_alive(self) -> bool:
        """Whether the loop turns as it should. What upstream does has no part in it."""
        return _now() < self._turns_by

    @property
    def problem(self) -> str | None:
        """Why there is no valid file on the volume, None where there is one."""
        if self._keeper.state.observed:
            return None
        return self._keeper.last_error or "no datafile has been published yet"

    def status(self) -> dict[str, Any]:
        """This key's part of `/status`."""
        error = self._keeper.last_error
        if error is None and self._keeper.state.overdue:
            error = (
                f"revision {self._keeper.state.overdue} was announced, and upstream did not serve it within 10 minutes"
            )
        view = self._publication.view()
        return {
            "revision": view.pop("revision"),
            "target_revision": self._keeper.state.target,
            **view,
            "last_error": error,
        }

    # What a webhook said

    def announce(self, revision: int, urls: tuple[str, ...], trigger: Trigger) -> bool:
        """A webhook named a revision of this key; whether the loop is awake for it now."""
        before = self._keeper.state
        self._publication.note_webhook()
        self._keeper.state = reconcile.announce(before, revision, _now(), trigger)
        if self._keeper.state.announced != before.announced:
            self._inquiry.name(urls)
            self._inquiry.wake()
            self._telemetry.target_changed(self.sdk_key, self._keeper.state.target or 0)
        self._rouse(before, trigger)
        return any(a.revision == revision for a in self._keeper.state.announced)

    def nudge(self, trigger: Trigger) -> None:
        """A webhook came that may mean this key: wake the loop to look."""
        before = self._keeper.state
        if before.nudged is None:
            self._inquiry.wake()
        self._publication.note_webhook()
        self._keeper.state = reconcile.nudge(before, _now(), trigger)
        self._rouse(before, trigger)

    def retry(self) -> None:
        """What may have kept upstream from serving us has changed: ask again now those that rest."""
        self._inquiry.wake()
        self._wake.set()

    def _rouse(self, before: reconcile.State, trigger: Trigger) -> None:
        if not self._keeper.state.due:
            return
        if trigger is not Trigger.PEER:
            self._sharing.hurry()
        elif not before.due:
            self._sharing.expect()
        self._resting.clear()
        self._wake.set()

    # The loop

    async def run(self) -> None:
        """Load what is there, then sync for ever; beside it, wait for the moment of the bootstrap file."""
        self._turns_by = _now() + _STUCK_AFTER_S
        await self._keeper.load()
        self._sharing.begin()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._bootstrap_later())
            while True:
                await self._rest()
                await self._turn()

    async def settle(self) -> None:
        """Return when the loop has nothing at hand. Accepted work gets this moment when the process ends."""
        await self._resting.wait()

    async def _rest(self) -> None:
        while (wait_s := self._next_at() - _now()) > 0:
            self._wake.clear()
            self._resting.set()
            self._turns_by = _now() + wait_s + _STUCK_AFTER_S
            try:
                async with asyncio.timeout(None if math.isinf(wait_s) else wait_s):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def _next_at(self) -> float:
        if self._sharing.has_offer:
            return 0.0
        due_at = self._sharing.not_before if self._keeper.state.due else math.inf
        return max(min(due_at, self._chase_at, self._keeper.retry_at, self._poll_at), self._inquiry.available_at())

    async def _turn(self) -> None:
        """Look at what the bus brought, or ask one source once, and arrange for the next turn whatever came of it."""
        self._resting.clear()
        self._turns_by = _now() + _STUCK_AFTER_S
        self._expire()
        if self._keeper.miss():
            self._inquiry.forget()
        if (offer := self._sharing.take()) is not None:
            await self._accord.consider(*offer)
        elif (look_s := await self._accord.spares_us()) is None:
            self._keeper.retry_at = math.inf
            await self._ask()
        elif math.isfinite(look_s):
            self._poll_at = _now() + look_s
        self._plan()

    def _expire(self) -> None:
        now = _now()
        self._keeper.state, overdue = reconcile.expire(self._keeper.state, now)
        for announcement in overdue:
            self._telemetry.webhook_overdue(
                self.sdk_key, announcement.revision, self._keeper.have, now - announcement.at
            )
            self._telemetry.target_changed(self.sdk_key, self._keeper.state.target or 0)

    def _plan(self) -> None:
        now, pace = _now(), self._pace
        chase_s = None if self._keeper.state.due else reconcile.chase_in(self._keeper.state, now, pace.random.random())
        self._chase_at = math.inf if chase_s is None else now + chase_s
        if not self._keeper.state.announced:
            self._inquiry.only_cdn()
        if pace.poll_interval_s and not now < self._poll_at < math.inf:
            self._poll_at = backoff.next_poll(now, pace.poll_interval_s, pace.offset, pace.random.random())

    # One fetch

    async def _ask(self) -> None:
        trigger = self._keeper.state.trigger
        self._keeper.state = reconcile.begin(self._keeper.state)
        try:
            answer = await self._inquiry.ask()
        except FetchError as error:
            self._keeper.retry_at = _now()
            self._keeper.last_error = error.reason
            self._sharing.failed()
            return
        if answer is not None:
            before = self._keeper.state.observed
            if await self._keeper.write(lambda: self._keeper.judge(answer, trigger)):
                replaced = self._keeper.state.observed != before
                self._inquiry.remember(answer, replaced=replaced)
                self._sharing.tell(replaced=replaced)
                self._accord.overrule()

    async def _bootstrap_later(self) -> None:
        wait_s = self._pace.bootstrap_after_s
        while True:
            await asyncio.sleep(wait_s)
            if self._keeper.state.observed is not None or (body := await asyncio.to_thread(self._bootstrap)) is None:
                return None
            try:
                found = await parsed(body, self.sdk_key)
                if await self._keeper.write(functools.partial(self._keeper.start_from, found)):
                    return None
            except InvalidDatafileError as problem:
                return self._telemetry.datafile_unusable(self.sdk_key, "bootstrap", str(problem))
            wait_s = backoff.failure_pause(max(1, self._keeper.write_failures), self._pace.random.random())


def notify(syncers: Mapping[str, Syncer], event: DatafileUpdated, trigger: Trigger) -> tuple[str, ...]:
    """Tell every key that an event concerns; those whose loop is awake for it now."""
    concerned = webhook.attribute(event, {key: syncer.project_id for key, syncer in syncers.items()})
    for key in concerned.nudged:
        syncers[key].nudge(trigger)
    awake = [
        key
        for key in concerned.announced
        if event.revision is not None and syncers[key].announce(event.revision, event.urls, trigger)
    ]
    return (*awake, *concerned.nudged)


def _now() -> float:
    return asyncio.get_running_loop().time()
