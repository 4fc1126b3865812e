"""What is known of one SDK key, and what follows from it.

Laws: a published revision never goes back, but where upstream insisted on it for long enough; an announced revision is
wanted until it is on disk or overdue; news that comes during a fetch outlives that fetch. Going back begins a new generation;
what it left is not taken again for news. States are values: each function takes one and gives the next. Times are seconds of
one monotonic clock, handed in.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

from datafile_sidecar.core import backoff
from datafile_sidecar.core.patience import Insistence, Patience

_MAX_ANNOUNCEMENTS = 64
_MAX_LEFT = 4


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
class Offer:
    """A datafile that another pod shares, by the bus, and the generation that it has there.

    `left` are the digests that this generation and those before it went back from; `at` is when the offer came.
    """

    version: Version
    generation: int
    left: tuple[str, ...] = ()
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class State:
    """One SDK key. `observed` is on disk, `announced` is wanted, newest first; `due` means: fetch now, whatever the pauses say.

    `left` are the digests that a rollback went back from, `offer` one of a generation that only upstream can confirm.
    """

    observed: Version | None = None
    generation: int = 0
    left: tuple[str, ...] = ()
    offer: Offer | None = None
    announced: tuple[Announcement, ...] = ()
    nudged: Announcement | None = None
    due: bool = True
    checked: bool = False
    webhook_seen: bool = False
    overdue: int = 0
    older: Insistence | None = None

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
        if self.offer and self.due:
            return Trigger.BUS
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


def decide(state: State, candidate: Version, now: float, patience: Patience) -> Verdict:
    """What to do with the valid datafile that a fetch brought."""
    if candidate == state.observed:
        return Verdict.KEEP
    if not goes_back(state, candidate):
        return Verdict.PUBLISH
    if state.offer and candidate == state.offer.version:
        return Verdict.ROLL_BACK
    return Verdict.ROLL_BACK if state.older and state.older.is_enough(now, patience) else Verdict.REFUSE


def goes_back(state: State, candidate: Version) -> bool:
    """Whether this datafile is older than what is on disk, or was there and was gone back from."""
    if state.observed is None or candidate == state.observed:
        return False
    return candidate.revision < state.observed.revision or candidate.sha256 in state.left


def adopt(state: State, version: Version, generation: int = 0) -> State:
    """A datafile is on disk that upstream was not asked about: one that was kept, or the bootstrap file."""
    wanted = tuple(a for a in state.announced if a.revision > version.revision)
    return replace(state, observed=version, generation=generation, announced=wanted)


def publish(state: State, version: Version) -> State:
    """A datafile from upstream was renamed into place. What it fulfils is wanted no more."""
    state = on_disk(_go_back(state, version) if goes_back(state, version) else _join(state, version), version)
    return replace(state, due=state.due and bool(state.announced or state.nudged), checked=True, older=None)


def keep(state: State) -> State:
    """Upstream serves what we have."""
    if state.observed:
        state = _join(state, state.observed)
    return replace(state, checked=True, older=None)


def on_disk(state: State, version: Version) -> State:
    """A datafile was renamed into place, whatever it is thought of: what it fulfils is wanted no more."""
    wanted = tuple(a for a in state.announced if a.revision > version.revision)
    nudged = state.nudged if state.due else None
    return replace(state, observed=version, announced=wanted, nudged=nudged, overdue=0)


def _go_back(state: State, version: Version) -> State:
    """Begin a generation, or join the one in which others went back to the same."""
    joined = _join(state, version)
    generation = max(joined.generation, state.generation + (joined.generation == state.generation))
    gone = (state.observed.sha256,) if state.observed else ()
    return replace(joined, generation=generation, left=merged(joined.left, gone, version))


def _join(state: State, version: Version) -> State:
    """Come into the generation that others are in, where what upstream serves fits to it.

    It fits where it is what they have or newer, and nothing that they went back from: then a stale edge is speaking.
    """
    offer = state.offer
    if offer is None or (version != offer.version and not _follows(version, offer)):
        return state
    generation = max(state.generation, offer.generation)
    return replace(state, generation=generation, left=merged(state.left, offer.left, version), offer=None)


def _follows(version: Version, offer: Offer) -> bool:
    return version.revision > offer.version.revision and version.sha256 not in offer.left


def merged(left: tuple[str, ...], more: tuple[str, ...], version: Version) -> tuple[str, ...]:
    """The digests that were gone back from, the latest last; what is on disk is not among them."""
    known = dict.fromkeys((*left, *more))
    return tuple(digest for digest in known if digest != version.sha256)[-_MAX_LEFT:]


def refuse(state: State, now: float, patience: Patience) -> State:
    """Upstream serves something older than what we have."""
    return replace(state, older=state.older.again(now, patience) if state.older else Insistence(now))


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
