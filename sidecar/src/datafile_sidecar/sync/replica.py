"""One key's part on the bus: what the loop of the key asks other pods and tells them. It decides nothing.

With no bus, or one that is down, a key behaves as if it were alone.
"""

import asyncio
import functools
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from datafile_sidecar.bus import Bus, Lease, change_between
from datafile_sidecar.core import gate, schedule
from datafile_sidecar.core.bus_message import Change
from datafile_sidecar.core.bus_record import Check, Head, Record
from datafile_sidecar.core.conditional import MAX_TEXT, Validators
from datafile_sidecar.core.datafile import Datafile
from datafile_sidecar.core.schedule import Pace
from datafile_sidecar.core.state import Candidate, Source, State, Version
from datafile_sidecar.network.turns import Turn, Turns, Urgency
from datafile_sidecar.upstream import LARGE_BYTES

_ANSWER_WITHIN_S = 0.5


@dataclass(eq=False, slots=True)
class Replica:
    """What one SDK key asks of the bus, and tells other pods by it."""

    sdk_key: str
    bus: Bus | None
    validations: Turns
    pod: str = field(default_factory=lambda: secrets.token_hex(4))
    """Names this pod in its checks."""
    candidate: Record | None = field(default=None, init=False)
    """What the bus has brought, and the loop has not looked at yet."""
    _held: bytes = field(default=b"", init=False)
    _change: Change | None = field(default=None, init=False)
    _chases_until: float = field(default=0.0, init=False)
    _question: asyncio.Timeout | None = field(default=None, init=False)

    @property
    def is_connected(self) -> bool:
        """Whether the bus is connected."""
        return self.bus is not None and self.bus.is_connected

    async def ask_pods(
        self, state: State, pace: Pace, last_check: float | None, unix_now: float, most: int
    ) -> Check | Lease:
        """Return the check that another pod has just made, where it stands for ours; else which pod polls now.

        Args:
            last_check: When upstream last confirmed what is published, in Unix seconds.
            most: How many checks in a row by one pod stand for ours.
        """
        now = asyncio.get_running_loop().time()
        if self.bus is None or not self.bus.is_connected or not schedule.asks_pods(state, pace, now):
            return Lease.OURS

        def accepts(check: Check) -> bool:
            return gate.accepts_check(state, check, last_check, unix_now, pace.poll_interval_s, most)

        try:
            async with asyncio.timeout(_ANSWER_WITHIN_S) as self._question:
                return await self.bus.poll_lease(self.sdk_key, accepts, schedule.lease_s(state, pace, now))
        except TimeoutError:
            return Lease.OURS
        finally:
            self._question = None

    def hurry(self) -> None:
        """Wait no longer for the bus: this pod received the webhook directly."""
        if self._question is not None and not self._question.expired():
            self._question.reschedule(asyncio.get_running_loop().time())

    def share(self, head: Head | None, checked: float | None) -> None:
        """Tell that upstream served the datafile with this head, at that time (Unix seconds)."""
        if self.bus is not None and head is not None and checked is not None:
            self.bus.share(self.sdk_key)  # first: other pods wait for it
            check = Check(at=checked, by=self.pod, sha256=head.sha256, validators=head.validators)
            self.bus.report_check(self.sdk_key, check)

    async def may_chase(self, state: State) -> bool:
        """Tell whether this pod may fetch what is announced: at once where a webhook came directly, or without a bus.

        Where all that it knows was relayed, the pod that got the webhook chases it, and of all others one at a time.
        """
        now = asyncio.get_running_loop().time()
        if self.bus is None or not schedule.shares_chase(state) or now < self._chases_until:
            return True
        lease_s = schedule.chase_lease_s(state, now)
        try:
            async with asyncio.timeout(_ANSWER_WITHIN_S) as self._question:
                is_ours = await self.bus.chase_lease(self.sdk_key, lease_s)
        except TimeoutError:
            return True
        finally:
            self._question = None
        self._chases_until = now + lease_s if is_ours else 0.0
        return is_ours

    def fetch_failed(self, *, is_throttled: bool = False) -> None:
        """Let another pod poll: upstream gave this one no good answer. If it was throttled, others wait until its lease ends."""
        if self.bus is not None:
            self.bus.release_lease(self.sdk_key, at_once=not is_throttled)

    def take(self) -> Record | None:
        """Return the candidate, and forget it."""
        taken, self.candidate = self.candidate, None
        return taken

    def candidate_body(self, sha256: str) -> bytes | None:
        """Return the bytes of the candidate, None where it has another digest."""
        return self.candidate.datafile.body if self.candidate and self.candidate.datafile.sha256 == sha256 else None

    @asynccontextmanager
    async def noted_change(
        self, state: State, candidate: Candidate, datafile: Datafile, body: Callable[[str], Awaitable[bytes | None]]
    ) -> AsyncIterator[None]:
        """Publish a datafile in this block, and remember the change that it is, for pods that have what it replaces.

        A large one takes the memory of two validations, so it counts as two; while other keys are validated, it is left out.

        Args:
            state: What is known of the key before.
            candidate: What will be published.
            datafile: Its content.
            body: Returns the bytes with a digest, None where they are not on the volume.
        """
        before, base, turns = state.on_volume, None, (Turn(), Turn())
        is_wanted = self.is_connected and candidate.source is Source.UPSTREAM
        try:
            if before and is_wanted and (datafile.size <= LARGE_BYTES or self._have_come(turns)):
                base = await body(before.sha256)
            yield
            self._change = None
            if before and base:
                make = functools.partial(change_between, base, before.sha256, datafile.body, datafile.sha256)
                self._change = await asyncio.to_thread(make)
        finally:
            for turn in turns:
                self.validations.end(turn)

    def _have_come(self, turns: Iterable[Turn]) -> bool:
        """Take all turns if they are free now."""
        if not (have_come := all(self.validations.ask(turn, Urgency.ANNOUNCED, lambda: None) for turn in turns)):
            for turn in turns:
                self.validations.end(turn)
        return have_come

    def change(self, head: Head) -> Change | None:
        """Return the change that led to the datafile with this head, None where another one was the last, or it is too large."""
        return self._change if self._change and self._change.sha256 == head.sha256 else None

    def hold(self, record: Record) -> None:
        """Remember a datafile on the bus that upstream has to confirm."""
        self._held = record.line

    def overwrite_held(self) -> None:
        """Replace that datafile on the bus: upstream never confirmed it."""
        if self.bus is not None:
            self.bus.overwrite(self.sdk_key, self._held)


def candidate_of(head: Head, now: float) -> Candidate:
    """Return what the core knows of a datafile on the bus. A fetch in the future of `now` (Unix seconds) counts for nothing."""
    version = Version(head.revision, head.sha256)
    fetched = head.fetched if head.fetched <= now else None
    return Candidate(version, Source.BUS, fetched, head.generation, head.rolled_back_from)


def head_of(state: State, validators: Validators | None) -> Head | None:
    """Describe what is published, as the bus carries it; None where upstream never served it."""
    if state.published is None or state.fetched is None:
        return None
    return Head(
        generation=state.generation,
        revision=state.published.revision,
        sha256=state.published.sha256,
        fetched=state.fetched,
        rolled_back_from=state.rolled_back_from,
        validators=validators if validators and _fits(validators) else None,
    )


def _fits(validators: Validators) -> bool:
    return all(len(text or "") <= MAX_TEXT for text in (validators.url, validators.etag, validators.last_modified))
