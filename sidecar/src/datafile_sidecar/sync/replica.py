"""One key's dealings with the bus: what it has for other pods, what they offer, and whether a poll of theirs stands for ours.

All of it may fail or be missing; then a key behaves as if it were alone. Times are those of the event loop, but for those
that pods tell each other, which are Unix seconds.
"""

import asyncio
from collections.abc import Callable
from random import Random

from datafile_sidecar.bus import Bus, Claim
from datafile_sidecar.core import offers
from datafile_sidecar.core.bus_record import MAX_TEXT, Check, Condition, Head, Record
from datafile_sidecar.core.offers import Opinion
from datafile_sidecar.core.reconcile import Offer, State, Version
from datafile_sidecar.sync.fetcher import Inquiry
from datafile_sidecar.sync.store import Publication
from datafile_sidecar.upstream import Validators

GRACE_S = 0.5
_SPREAD_S = 0.25
_ALONE_SPREAD_S = 0.1
_CONSULT_S = 0.5
_CLAIM_S = 10.0
_LOOK_AGAIN_S = 1.0
_ALONE_AFTER_INTERVALS = 2.5


class Sharing:
    """What stands between the loop of one key and the bus. With no bus, it does nothing."""

    def __init__(
        self,
        publication: Publication,
        inquiry: Inquiry,
        bus: Bus | None,
        *,
        state: Callable[[], State],
        wake: Callable[[], None],
        poll_interval_s: float,
        random: Random,
    ) -> None:
        """`state` gives what is known of the key now; `wake` has the loop look at what has come."""
        self._publication = publication
        self._inquiry = inquiry
        self._bus = bus
        self._state = state
        self._wake = wake
        self._interval_s = poll_interval_s
        self._random = random
        self._sdk_key = publication.sdk_key
        self._offered: Record | None = None
        self._questioned = b""
        self._consultation: asyncio.Timeout | None = None
        # When upstream, or another pod's word, last confirmed or replaced what we have. An older answer does not count: each pod
        # must hear it for itself before it believes a rollback, so it polls, whatever is claimed.
        self._news_at = float("-inf")
        self.not_before = 0.0
        if bus is not None:
            bus.join(self._sdk_key, self)

    # When to leave it to the bus

    def begin(self) -> None:
        """The loop begins: the bus has a moment to say what it knows."""
        self._news_at = _now()
        if self._bus is not None:
            self.not_before = _now() + GRACE_S

    def expect(self) -> None:
        """Another pod got a webhook and passed it on: give it a moment to pass on the datafile, too, if it can.

        Else spread the fetches of all who were told at once, so that upstream is not met by a whole fleet in one instant.
        """
        shared = self._bus is not None and self._bus.is_connected
        spread_s = self._random.random() * (_SPREAD_S if shared else _ALONE_SPREAD_S)
        self.not_before = _now() + (GRACE_S if shared else 0.0) + spread_s

    def hurry(self) -> None:
        """Wait for nobody: we are those whom others wait for."""
        self.not_before = 0.0
        if self._consultation is not None and not self._consultation.expired():
            self._consultation.reschedule(_now())

    async def consult(self, *, claim: bool) -> Check | Claim:
        """Whether another pod made the check that is due here, else who makes it. With `claim`, we want to be the one."""
        overdue = _now() - self._news_at > _ALONE_AFTER_INTERVALS * self._interval_s
        if self._bus is None or not self._bus.is_connected or not self._interval_s or overdue:
            return Claim.OURS
        try:
            async with asyncio.timeout(_CONSULT_S) as self._consultation:
                claim_s = min(_CLAIM_S, self._interval_s) if claim else None
                return await self._bus.consult(self._sdk_key, self._suits, claim_s)
        except TimeoutError:
            return Claim.OURS
        finally:
            self._consultation = None

    @property
    def look_again_s(self) -> float:
        """When to look for the result of another's poll."""
        return min(_LOOK_AGAIN_S, self._interval_s / 4) * (0.5 + self._random.random())

    def _suits(self, check: Check) -> bool:
        """Whether this is about what we have, younger than our own check, no older than an interval, and not of the future."""
        observed, now = self._state().observed, self._publication.now()
        oldest = max(self._publication.moments.checked or 0.0, now - self._interval_s)
        return observed is not None and check.sha256 == observed.sha256 and oldest < check.at <= now

    # What this pod tells

    def tell(self, *, replaced: bool) -> None:
        """Upstream serves what is on the volume, where it took the place of another one if `replaced`."""
        self._news_at = _now()
        head, checked = self.held(), self._publication.moments.checked
        is_stale = bool(self._state().announced) and not replaced
        if self._bus is not None and head is not None and checked is not None and not is_stale:
            self._bus.tell(self._sdk_key, Check(at=checked, sha256=head.sha256, condition=head.condition))
            self._bus.share(self._sdk_key)

    def failed(self) -> None:
        """Upstream was asked in vain: another pod may have better luck."""
        if self._bus is not None:
            self._bus.release(self._sdk_key)

    def adopted(self, check: Check) -> None:
        """Another pod's check counts as ours."""
        self._news_at = _now()
        self._inquiry.adopt(_validators(check.condition), replaced=False)

    def overrule(self) -> None:
        """What the bus offers was never confirmed by upstream."""
        if self._bus is not None:
            self._bus.overwrite(self._sdk_key, self._questioned)

    # What the bus asks

    def held(self) -> Head | None:
        """What is on the volume, as far as upstream served it."""
        state, fetched = self._state(), self._publication.moments.fetched
        if state.observed is None or fetched is None:
            return None
        return Head(
            generation=state.generation,
            revision=state.observed.revision,
            sha256=state.observed.sha256,
            fetched=fetched,
            left=state.left,
            condition=_condition(self._inquiry.validators),
        )

    async def body(self, head: Head) -> bytes | None:
        """The bytes of that datafile, None where they are not on the volume any more."""
        return await self._publication.body(head.sha256)

    def wants(self, head: Head) -> bool:
        """Whether the datafile under this head would be of use."""
        return self.weigh(head) is not Opinion.IGNORE

    def offer(self, record: Record | None) -> None:
        """The bus has this datafile, or has said all that it has."""
        if record is None:
            self.not_before = 0.0
        else:
            self._offered = record
        self._wake()

    # What the loop does with it

    @property
    def has_offer(self) -> bool:
        """Whether there is something to look at."""
        return self._offered is not None

    def take(self) -> tuple[Record, Opinion] | None:
        """What was offered last, and what to do with it."""
        if (record := self._offered) is None:
            return None
        self._offered = None
        opinion = self.weigh(record.head)
        if opinion is Opinion.ASK:
            self._questioned = record.line
        return record, opinion

    def taken(self, record: Record) -> None:
        """It is on the volume now."""
        self._news_at = _now()
        self._inquiry.adopt(_validators(record.head.condition), replaced=True)

    def weigh(self, head: Head) -> Opinion:
        """What to do with a datafile of which this is said."""
        now = self._publication.now()
        return offers.weigh(
            self._state(),
            offered(head),
            fetched=head.fetched if head.fetched <= now else 0.0,
            have_fetched=self._publication.moments.fetched or 0.0,
        )


def offered(head: Head, at: float = 0.0) -> Offer:
    """An offer, as the core knows it."""
    return Offer(Version(head.revision, head.sha256), head.generation, head.left, at)


def _validators(condition: Condition | None) -> Validators | None:
    return Validators(condition.url, condition.etag, condition.last_modified) if condition else None


def _condition(validators: Validators | None) -> Condition | None:
    if validators is None or len(validators.url) > MAX_TEXT:
        return None
    return Condition(url=validators.url, etag=validators.etag, last_modified=validators.last_modified)


def _now() -> float:
    return asyncio.get_running_loop().time()
