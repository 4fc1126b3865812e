"""One key's part on the bus: hands candidates and checks to the loop of its key, and decides nothing.

With no bus, or one that is down, a key behaves as if it were alone.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from datafile_sidecar.bus import Bus, Lease
from datafile_sidecar.core import gate, schedule
from datafile_sidecar.core.bus_record import Check, Head, Record
from datafile_sidecar.core.conditional import MAX_TEXT, Validators
from datafile_sidecar.core.schedule import Pace
from datafile_sidecar.core.state import Candidate, Source, State, Version

_ANSWER_WITHIN_S = 0.5


class Answered(Protocol):
    """The loop's way to hear of the bus."""

    def __call__(self, *, candidate_came: bool) -> None:
        """Look at the candidate that came, or stop waiting for one."""


class Replica:
    """The member of the bus for one SDK key."""

    def __init__(
        self,
        sdk_key: str,
        bus: Bus | None,
        *,
        head: Callable[[], Head | None],
        body: Callable[[str], Awaitable[bytes | None]],
        is_useful: Callable[[Head], bool],
        answered: Answered,
    ) -> None:
        """Join the bus, where there is one.

        Args:
            head: Describes what is published, None where upstream never served it.
            body: Gives the published bytes, None where they have another SHA-256.
            is_useful: Tells whether the datafile that a head describes is worth reading.
            answered: Is called when a candidate came, and when the bus has said all that it has.
        """
        self._sdk_key = sdk_key
        self._bus = bus
        self._head, self._body, self._is_useful, self._answered = head, body, is_useful, answered
        self._candidate: Record | None = None
        self._held = b""
        self._question: asyncio.Timeout | None = None
        if bus is not None:
            bus.join(sdk_key, self)

    @property
    def has_bus(self) -> bool:
        """Whether a bus is configured."""
        return self._bus is not None

    @property
    def is_connected(self) -> bool:
        """Whether the bus is connected."""
        return self._bus is not None and self._bus.is_connected

    # What the key tells and asks

    @property
    def has_candidate(self) -> bool:
        """Whether the bus has brought a datafile that was not looked at yet."""
        return self._candidate is not None

    def take_candidate(self) -> Record | None:
        """Return the datafile that the bus brought last, once."""
        record, self._candidate = self._candidate, None
        return record

    async def ask_pods(
        self, state: State, pace: Pace, last_check: float | None, now: float, unix_now: float
    ) -> Check | Lease:
        """Return the check that another pod has just made, where it stands for ours; else which pod polls now.

        Args:
            last_check: When upstream last confirmed what is published, in Unix seconds.
            now: Seconds of the event loop; `unix_now` are Unix seconds.
        """
        if self._bus is None or not self._bus.is_connected or not schedule.asks_pods(state, pace, now):
            return Lease.OURS

        def accepts(check: Check) -> bool:
            return gate.accepts_check(state, check.sha256, check.at, last_check, unix_now, pace.poll_interval_s)

        try:
            async with asyncio.timeout(_ANSWER_WITHIN_S) as self._question:
                return await self._bus.poll_lease(self._sdk_key, accepts, schedule.lease_s(state, pace, now))
        except TimeoutError:
            return Lease.OURS
        finally:
            self._question = None

    def hurry(self) -> None:
        """Wait no longer for the bus: this pod received the webhook directly."""
        if self._question is not None and not self._question.expired():
            self._question.reschedule(asyncio.get_running_loop().time())

    def share(self, checked: float | None) -> None:
        """Tell that upstream served what is published, at that time (Unix seconds)."""
        head = self._head()
        if self._bus is not None and head is not None and checked is not None:
            self._bus.report_check(self._sdk_key, Check(at=checked, sha256=head.sha256, validators=head.validators))
            self._bus.share(self._sdk_key)

    def fetch_failed(self) -> None:
        """Let another pod poll: upstream gave this one no good answer."""
        if self._bus is not None:
            self._bus.release_lease(self._sdk_key)

    def hold(self, record: Record) -> None:
        """Remember a datafile on the bus that upstream has to confirm."""
        self._held = record.line

    def overwrite_held(self) -> None:
        """Replace that datafile on the bus: upstream never confirmed it."""
        if self._bus is not None:
            self._bus.overwrite(self._sdk_key, self._held)

    # What the bus asks (see `bus.Member`)

    def held(self) -> Head | None:
        """Describe what is published."""
        return self._head()

    async def body(self, head: Head) -> bytes | None:
        """Return the bytes of that datafile, None where they are not on the volume any more."""
        return await self._body(head.sha256)

    def wants(self, head: Head) -> bool:
        """Tell whether the datafile under this head is worth reading."""
        return self._is_useful(head)

    def receive(self, record: Record | None) -> None:
        """Take a datafile from the bus; None means that it has no more."""
        if record is not None:
            self._candidate = record
        self._answered(candidate_came=record is not None)


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
