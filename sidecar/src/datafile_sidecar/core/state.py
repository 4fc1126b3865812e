"""What is known of one SDK key, as values.

`reconcile` says how events change a State, `gate` what to do with a candidate, `schedule` what is due next. One object holds a
State: `sync.syncer.KeySyncer`. Times are seconds of one monotonic clock, unless Unix seconds are named.
"""

import math
from dataclasses import dataclass, replace
from enum import StrEnum


class Trigger(StrEnum):
    """Why a datafile was fetched and published."""

    STARTUP = "startup"
    WEBHOOK = "webhook"
    POLL = "poll"
    PEER = "peer"
    BUS = "bus"
    BOOTSTRAP = "bootstrap"


@dataclass(frozen=True, slots=True)
class Version:
    """One datafile: its revision, and the SHA-256 of its bytes in hexadecimal."""

    revision: int
    sha256: str


class Source(StrEnum):
    """Where a candidate comes from."""

    UPSTREAM = "upstream"
    BUS = "bus"
    BOOTSTRAP = "bootstrap"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A valid datafile that may be published.

    `fetched` is when upstream served it (Unix seconds), None where that is not known or never was. `generation` and
    `rolled_back_from` are what another pod says of it on the bus.
    """

    version: Version
    source: Source
    fetched: float | None = None
    generation: int = 0
    rolled_back_from: tuple[str, ...] = ()

    def dated(self, now: float) -> "Candidate":
        """Return it with `now` as the time of its fetch, where none is known or another pod's clock is ahead."""
        return self if self.fetched is not None or self.source is Source.BOOTSTRAP else replace(self, fetched=now)


@dataclass(frozen=True, slots=True)
class Announcement:
    """A revision that a webhook named, when it came, and by which way."""

    revision: int
    at: float
    trigger: Trigger


@dataclass(frozen=True, slots=True)
class Hint:
    """A webhook that may mean this key, but names no revision that can be compared with ours."""

    at: float
    trigger: Trigger


@dataclass(frozen=True, slots=True)
class PendingRollback:
    """A candidate of a later generation that the bus brought at `since`, and that upstream has not confirmed yet."""

    candidate: Candidate
    since: float


@dataclass(frozen=True, slots=True)
class RollbackPolicy:
    """For how long upstream must insist on an older revision before it is believed.

    Of the time between two answers at most `max_gap_s` counts, so that an outage between them is no insistence.
    """

    insist_s: float
    max_gap_s: float

    @classmethod
    def of(cls, insist_s: float, poll_interval_s: float) -> "RollbackPolicy":
        """Let two poll intervals count between two answers, and two minutes where polls are frequent or off."""
        return cls(insist_s, max(2 * poll_interval_s, 120.0))


@dataclass(frozen=True, slots=True)
class RollbackEvidence:
    """That upstream serves this older version: when it last did, and for how long its answers have insisted on it."""

    version: Version
    at: float
    lasted_s: float = 0.0

    def again(self, now: float, policy: RollbackPolicy) -> "RollbackEvidence":
        """Add one more answer with this version."""
        return RollbackEvidence(self.version, now, self.lasted_s + min(now - self.at, policy.max_gap_s))

    def is_enough(self, now: float, policy: RollbackPolicy) -> bool:
        """Tell whether an answer that comes now is to be believed."""
        return self.again(now, policy).lasted_s >= policy.insist_s


FLEET_GRACE_S = 5.0


@dataclass(frozen=True, slots=True)
class ExpectedRevision:
    """The newest revision of the fleet, as a new pod hears it. In its first seconds, nothing older is the first to be published.

    In a later `generation` than the first, a higher revision may be one that a rollback went away from: it waits too.
    """

    revision: int
    generation: int = 0


@dataclass(frozen=True, slots=True)
class Timers:
    """When each thing is due; `inf` means never.

    `not_before` holds an urgent fetch back while the bus may be faster, `chase_not_before` further ones while another pod chases.
    """

    poll_at: float = math.inf
    chase_at: float = math.inf
    retry_at: float = math.inf
    not_before: float = 0.0
    chase_not_before: float = 0.0


@dataclass(frozen=True, slots=True)
class State:
    """One SDK key.

    `published` was renamed into place; `is_missing` tells that it is not there any more, since somebody removed or replaced it:
    nothing older takes its place. Upstream served it at `fetched` (Unix seconds; None for a bootstrap file). `announced` are the
    revisions that are wanted, the highest first. `fetch_now` means: fetch, whatever the pauses say. `checked` is True once
    upstream has confirmed or replaced what is published; `confirmed_at` is when it did so last, or the bus did. `spared_by` is the
    pod whose checks stood for ours lately, and how many did. `is_throttled` tells that upstream asked for fewer
    requests when it was asked last. `overdue` is the highest revision that was announced and given up.
    `rolled_back_from` are the digests that rollbacks went away from. `last_error` says why the newest datafile is not there.
    """

    published: Version | None = None
    is_missing: bool = False
    fetched: float | None = None
    generation: int = 0
    rolled_back_from: tuple[str, ...] = ()
    pending_rollback: PendingRollback | None = None
    rollback_evidence: tuple[RollbackEvidence, ...] = ()
    announced: tuple[Announcement, ...] = ()
    hint: Hint | None = None
    expected: ExpectedRevision = ExpectedRevision(0)
    spared_by: tuple[str, int] = ("", 0)
    fetch_now: bool = True
    checked: bool = False
    confirmed_at: float = -math.inf
    webhook_seen: bool = False
    overdue: int = 0
    is_throttled: bool = False
    write_failures: int = 0
    last_error: str | None = None
    timers: Timers = Timers()

    @property
    def revision(self) -> int | None:
        """The revision on the volume."""
        return self.on_volume.revision if self.on_volume else None

    @property
    def on_volume(self) -> Version | None:
        """What is published and still there."""
        return None if self.is_missing else self.published

    @property
    def target(self) -> int | None:
        """The revision that should be on the volume: the highest announced, else the one that is there."""
        return self.announced[0].revision if self.announced else self.revision

    @property
    def expects_until(self) -> float:
        """Until when a new pod publishes nothing older than what it has heard of the fleet."""
        return self.confirmed_at + FLEET_GRACE_S if self.expected.revision else -math.inf

    @property
    def problem(self) -> str | None:
        """Why nothing valid is on the volume, None where something is."""
        return None if self.on_volume else self.last_error or "no datafile has been published yet"

    @property
    def is_behind(self) -> bool:
        """Whether a webhook's revision, or what it hinted at, is not published yet."""
        return bool(self.announced or self.hint)

    @property
    def error(self) -> str | None:
        """Why the newest datafile is not on the volume, None where nothing is known to be wrong."""
        if self.last_error is None and self.overdue:
            return f"revision {self.overdue} was announced, and upstream did not serve it within 10 minutes"
        return self.last_error

    @property
    def trigger(self) -> Trigger:
        """Why a fetch that begins now is made."""
        if self.announced:
            return self.announced[0].trigger
        if self.hint:
            return self.hint.trigger
        if self.pending_rollback and self.fetch_now:
            return Trigger.BUS
        return Trigger.POLL if self.checked else Trigger.STARTUP
