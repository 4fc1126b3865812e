"""What is known of one SDK key, and the steps that change what is on its volume: one at a time, each whole or not at all.

Times are those of the event loop, but where Unix seconds are named.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable
from random import Random

from datafile_sidecar.core import backoff, offers, reconcile
from datafile_sidecar.core.bus_record import Record
from datafile_sidecar.core.datafile import Datafile, InvalidDatafileError
from datafile_sidecar.core.patience import Patience
from datafile_sidecar.core.reconcile import Offer, Trigger, Verdict, Version
from datafile_sidecar.observe.telemetry import Telemetry
from datafile_sidecar.sync.fetcher import Answer
from datafile_sidecar.sync.store import Publication
from datafile_sidecar.volume.directory import VolumeError


class Keeper:
    """Keeps the state of one key and its volume in step: nothing is known to be published before it is.

    `state` is what the core knows, `last_error` what went wrong since it last went well, in words, `retry_at` when to try again
    what failed.
    """

    def __init__(self, publication: Publication, *, patience: Patience, random: Random, telemetry: Telemetry) -> None:
        self.state = reconcile.State()
        self.last_error: str | None = None
        self.retry_at = math.inf
        self.write_failures = 0
        self._sdk_key = publication.sdk_key
        self._publication = publication
        self._patience = patience
        self._random = random
        self._telemetry = telemetry
        self._writing = asyncio.Lock()

    @property
    def have(self) -> int | None:
        """The revision on the volume."""
        return self.state.observed.revision if self.state.observed else None

    def miss(self) -> bool:
        """Whether what was on the volume is there no more; then nothing is."""
        if self.state.observed is None or self._publication.is_intact:
            return False
        self.state = reconcile.missing(self.state)
        self._telemetry.datafile_lost(self._sdk_key)
        return True

    async def write(self, step: Callable[[], Awaitable[bool]]) -> bool:
        """Run one step on the volume, alone; whether it did what it says. One that fails is tried again soon."""
        try:
            async with self._writing:
                accepted = await step()
        except VolumeError as problem:
            self.write_failures += 1
            wait_s = backoff.failure_pause(self.write_failures, self._random.random())
            self.retry_at = _now() + wait_s
            self.last_error = str(problem)
            self._telemetry.publish_failed(self._sdk_key, str(problem), wait_s)
            return False
        self.write_failures = 0
        return accepted

    async def judge(self, answer: Answer, trigger: Trigger) -> bool:
        """Do with an answer what it deserves; whether it is what is on the volume now. Raises VolumeError."""
        return await (self._accept(answer.found, trigger, answer.source) if answer.found else self.confirm())

    async def _accept(self, found: Datafile, trigger: Trigger, source: str) -> bool:
        now, version = _now(), Version(found.revision, found.sha256)
        match reconcile.decide(self.state, version, now, self._patience):
            case Verdict.KEEP:
                return await self.confirm()
            case Verdict.REFUSE:
                return self._refuse(version, now, source)
            case Verdict.ROLL_BACK:
                self._telemetry.datafile_rolled_back(self._sdk_key, found.revision, self.have)
            case Verdict.PUBLISH:
                pass
        await self._publish(found, trigger)
        return True

    async def _publish(self, found: Datafile, trigger: Trigger) -> None:
        before, version = self.state, Version(found.revision, found.sha256)
        generation = reconcile.publish(before, version).generation
        await self._publication.publish(found, trigger, generation, fetched=self._publication.now())
        fulfilled = reconcile.fulfilled(self.state, found.revision)
        self.state = reconcile.publish(self.state, version)
        self.last_error = None
        self._tell_published(found, trigger, _now() - fulfilled.at if fulfilled else None)
        self._telemetry.datafile_checked(self._sdk_key)
        if reconcile.is_missed(before, found.revision, trigger):
            self._telemetry.webhook_missed(self._sdk_key, found.revision)

    async def confirm(self, at: float | None = None) -> bool:
        """Upstream serves what is on the volume, or did `at` that time (Unix seconds). Raises VolumeError."""
        self.state = reconcile.keep(self.state)
        self.last_error = None
        await self._publication.confirm(at)
        self._telemetry.datafile_checked(self._sdk_key, at)
        return True

    def _refuse(self, served: Version, now: float, source: str) -> bool:
        self.state = reconcile.refuse(self.state, now, self._patience)
        self.last_error = f"upstream serves revision {served.revision}, older than {self.have}, which is on the volume"
        self._telemetry.datafile_refused(self._sdk_key, source, served.revision, self.have)
        return False

    async def load(self) -> None:
        """Begin with what an earlier sidecar left, if it is of use."""
        try:
            kept = await self._publication.load()
        except (VolumeError, InvalidDatafileError) as problem:
            self.last_error = f"the file that was kept on the volume can't be used: {problem}"
            self._telemetry.datafile_unusable(self._sdk_key, "volume", str(problem))
            return
        if kept is not None:
            found, generation = kept
            self.state = reconcile.adopt(self.state, Version(found.revision, found.sha256), generation)
            self._telemetry.datafile_loaded(self._sdk_key, found.revision, self._publication.moments.checked)

    async def take(self, record: Record, offer: Offer) -> bool:
        """Publish what another pod shares. Raises VolumeError."""
        found = record.found
        generation = offers.take(self.state, offer).generation
        fetched = min(record.head.fetched, self._publication.now())
        await self._publication.publish(found, Trigger.BUS, generation, fetched=fetched)
        fulfilled = reconcile.fulfilled(self.state, found.revision)
        self.state = offers.take(self.state, offer)
        self.last_error = None
        self._telemetry.datafile_checked(self._sdk_key, fetched)
        self._tell_published(found, Trigger.BUS, _now() - fulfilled.at if fulfilled else None)
        return True

    async def start_from(self, found: Datafile) -> bool:
        """Publish the bootstrap file, unless something better has come. Raises VolumeError."""
        if self.state.observed is None:
            await self._publication.publish(found, Trigger.BOOTSTRAP, self.state.generation, fetched=None)
            self.state = reconcile.adopt(self.state, Version(found.revision, found.sha256), self.state.generation)
            self._tell_published(found, Trigger.BOOTSTRAP, None)
        return True

    def _tell_published(self, found: Datafile, trigger: Trigger, propagation_s: float | None) -> None:
        self._publication.note_change(propagation_s)
        self._telemetry.datafile_published(
            self._sdk_key,
            revision=found.revision,
            target=self.state.target or 0,
            trigger=trigger,
            size=found.size,
            propagation_s=propagation_s,
        )


def _now() -> float:
    return asyncio.get_running_loop().time()
