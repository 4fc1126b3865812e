"""What is known of one SDK key, and what follows from it.

Laws: a published revision never goes back, but where upstream insisted on it for long enough; an announced revision is
wanted until it is on disk or overdue; news that comes during a fetch outlives that fetch. States are values: each function
takes one and gives the next. Times are seconds of one monotonic clock, handed in.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

from datafile_sidecar.core import backoff

_MAX_ANNOUNCEMENTS = 64


class Trigger(StrEnum):
    """Why a datafile was fetched and published."""

    STARTUP = "startup"
    WEBHOOK = "webhook"
    POLL = "poll"
    PEER = "peer"
    BUS = "bus"
    BOOTSTRAP = "bootstrap"


class Verdict(StrEnum):
    """What to do with a valid datafile that upstream served."""

    PUBLISH = "publish"
    KEEP = "keep"
    """It is what we have: only the time of the check moves."""
    REFUSE = "refuse"
    """It is older than what we have, and upstream has not insisted on it for long enough."""
    ROLL_BACK = "roll_back"
    """It is older than what we have, and upstream means it: publish."""


@dataclass(frozen=True, slots=True)
class Version:
    """A datafile on disk: its revision and the SHA-256 of its bytes, in hexadecimal."""

    revision: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Announcement:
    """A revision that a webhook named, when, and by which way the webhook came."""

    revision: int
    at: float
    trigger: Trigger


@dataclass(frozen=True, slots=True)
class State:
    """One SDK key. `observed` is on disk, `announced` is wanted, newest first; `due` means: fetch now, whatever the pauses say."""

    observed: Version | None = None
    generation: int = 0
    announced: tuple[Announcement, ...] = ()
    nudged: Announcement | None = None
    due: bool = True
    checked: bool = False
    webhook_seen: bool = False
    overdue: int = 0
    older_since: float | None = None

    @property
    def target(self) -> int | None:
        """The revision that should be on disk: the highest announced, else the one that is."""
        if self.announced:
            return self.announced[0].revision
        return self.observed.revision if self.observed else None

    @property
    def trigger(self) -> Trigger:
        """Why a fetch that begins now would be made."""
        if self.announced:
            return self.announced[0].trigger
        if self.nudged:
            return self.nudged.trigger
        return Trigger.POLL if self.checked else Trigger.STARTUP


def announce(state: State, revision: int, now: float, trigger: Trigger) -> State:
    """A webhook named a revision for this key. The state comes back as it was, but for `webhook_seen`, where that is no news."""
    state = replace(state, webhook_seen=True)
    if state.observed and revision <= state.observed.revision:
        return state
    if any(known.revision == revision for known in state.announced):
        return state
    announced = sorted((*state.announced, Announcement(revision, now, trigger)), key=lambda a: -a.revision)
    return replace(state, announced=tuple(announced[:_MAX_ANNOUNCEMENTS]), due=True)


def nudge(state: State, now: float, trigger: Trigger) -> State:
    """A webhook came that may mean this key, naming no revision that compares with ours: look, and again for a minute."""
    return replace(state, nudged=Announcement(0, now, trigger), due=True)


def begin(state: State) -> State:
    """A fetch begins: what comes from now on asks for another one."""
    return replace(state, due=False)


def decide(state: State, candidate: Version, now: float, rollback_after_s: float) -> Verdict:
    """What to do with the valid datafile that a fetch brought."""
    if state.observed is None or candidate.revision > state.observed.revision:
        return Verdict.PUBLISH
    if candidate.revision == state.observed.revision:
        return Verdict.KEEP if candidate.sha256 == state.observed.sha256 else Verdict.PUBLISH
    insisted_s = 0.0 if state.older_since is None else now - state.older_since
    return Verdict.ROLL_BACK if insisted_s >= rollback_after_s and state.older_since is not None else Verdict.REFUSE


def adopt(state: State, version: Version, generation: int = 0) -> State:
    """A datafile is on disk that upstream was not asked about: one that was kept, or the bootstrap file."""
    return replace(state, observed=version, generation=generation)


def publish(state: State, version: Version) -> State:
    """A datafile from upstream was renamed into place. What it fulfils is wanted no more."""
    went_back = state.observed is not None and version.revision < state.observed.revision
    wanted = tuple(a for a in state.announced if a.revision > version.revision)
    return replace(
        state,
        observed=version,
        generation=state.generation + went_back,
        announced=wanted,
        nudged=state.nudged if state.due else None,
        due=state.due and bool(wanted or state.nudged),
        checked=True,
        overdue=0,
        older_since=None,
    )


def keep(state: State) -> State:
    """Upstream serves what we have."""
    return replace(state, checked=True, older_since=None)


def refuse(state: State, now: float) -> State:
    """Upstream serves something older than what we have."""
    return replace(state, older_since=now if state.older_since is None else state.older_since)


def missing(state: State) -> State:
    """What was on disk is there no more: fetch it now."""
    return replace(state, observed=None, due=True)


def expire(state: State, now: float) -> tuple[State, tuple[Announcement, ...]]:
    """Stop wanting what was announced too long ago; also those announcements that are overdue now."""
    overdue = tuple(a for a in state.announced if now >= a.at + backoff.CHASE_FOR_S)
    if state.nudged and now >= state.nudged.at + backoff.NUDGE_FOR_S:
        state = replace(state, nudged=None)
    if overdue:
        wanted = tuple(a for a in state.announced if a not in overdue)
        state = replace(state, announced=wanted, overdue=max(state.overdue, overdue[0].revision))
    return state, overdue


def chase_in(state: State, now: float, jitter: float) -> float | None:
    """In how many seconds the next fetch is due for what webhooks set off; None where nothing is wanted."""
    if state.due:
        return 0.0
    pauses = []
    if state.announced:
        pauses.append(backoff.chase_pause(now - max(a.at for a in state.announced), jitter))
    if state.nudged:
        pauses.append(backoff.nudge_pause(now - state.nudged.at, jitter))
    return min(pauses, default=None)


def fulfilled(state: State, revision: int) -> Announcement | None:
    """The newest announcement that this revision, once on disk, fulfils."""
    return next((a for a in state.announced if a.revision <= revision), None)


def is_missed(state: State, revision: int, trigger: Trigger) -> bool:
    """Whether a webhook should have announced this revision, found by a poll, and none did.

    Only for a key that webhooks have come for: some environments never get one.
    """
    return trigger is Trigger.POLL and state.webhook_seen and revision > state.overdue and state.observed is not None
