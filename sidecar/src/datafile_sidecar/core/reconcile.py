"""How events change what is known of one SDK key.

Invariants: an announced revision is wanted until it is published or overdue; news that comes during a fetch outlives that fetch; a
rollback begins a new generation, and what it went away from is not published again in it. Each function takes a State and
returns the next one. Times are seconds of one monotonic clock, handed in.
"""

import math
from dataclasses import replace

from datafile_sidecar.core import backoff, gate
from datafile_sidecar.core.gate import AdmissionPolicy, Verdict
from datafile_sidecar.core.state import (
    Announcement,
    Candidate,
    ExpectedRevision,
    Hint,
    PendingRollback,
    RollbackEvidence,
    RollbackPolicy,
    Source,
    State,
    Trigger,
    Version,
)

HOLD_AGAIN_S = 10.0
"""Upstream is asked about a pending rollback at most once in this time."""
"""For how long after its start a new pod waits for what the fleet has, before it publishes something older."""
_PENDING_AT_LEAST_S = 60.0
_ASK_AGAIN_S = 1.0
_MAX_ANNOUNCEMENTS = 64
_MAX_EVIDENCE = 4
_MAX_ROLLED_BACK_FROM = 4

# Webhooks


def announce(state: State, revision: int, now: float, trigger: Trigger) -> State:
    """Note that a webhook named a revision of this key. Only `webhook_seen` changes where that is no news."""
    state = replace(state, webhook_seen=True)
    if state.published and revision <= state.published.revision:
        return state
    if any(known.revision == revision for known in state.announced):
        return state
    latest = sorted(state.announced, key=lambda a: -a.at)[: _MAX_ANNOUNCEMENTS - 1]
    announced = sorted((*latest, Announcement(revision, now, trigger)), key=lambda a: -a.revision)
    return replace(state, announced=tuple(announced), fetch_now=True)


def withdrawn(state: State, revision: int) -> State:
    """Note that an announced revision was taken back: it is neither wanted nor overdue any more."""
    wanted = tuple(a for a in state.announced if a.revision != revision)
    return replace(state, announced=wanted, overdue=0 if state.overdue == revision else state.overdue)


def hint(state: State, now: float, trigger: Trigger) -> State:
    """Note that a webhook came that may mean this key: look now, and again for a minute."""
    return replace(state, hint=Hint(now, trigger), fetch_now=True)


def expire(state: State, now: float) -> tuple[State, tuple[Announcement, ...]]:
    """Stop wanting what was announced too long ago; also return the announcements that are overdue now."""
    overdue = tuple(a for a in state.announced if now >= a.at + backoff.CHASE_FOR_S)
    if state.hint and now >= state.hint.at + backoff.HINT_FOR_S:
        state = replace(state, hint=None)
    if overdue:
        wanted = tuple(a for a in state.announced if a not in overdue)
        state = replace(state, announced=wanted, overdue=max(state.overdue, overdue[0].revision))
    return state, overdue


def fulfilled(state: State, revision: int) -> Announcement | None:
    """Return the newest announcement that this revision fulfils, once it is published."""
    return next((a for a in state.announced if a.revision <= revision), None)


def is_missed(state: State, revision: int, trigger: Trigger) -> bool:
    """Tell whether a webhook should have announced this revision, which a poll has found.

    Only for a key that webhooks have come for: some environments never get one.
    """
    return trigger is Trigger.POLL and state.webhook_seen and revision > state.overdue and state.on_volume is not None


# Candidates, and fetches


def admitted(state: State, candidate: Candidate, verdict: Verdict, now: float, policy: AdmissionPolicy) -> State:
    """Note what the gate said of a candidate, and that it was done."""
    is_upstream = candidate.source is Source.UPSTREAM
    match verdict:
        case Verdict.PUBLISH | Verdict.ROLL_BACK:
            return published(state, candidate, now)
        case Verdict.UNCHANGED:
            if is_upstream:
                return confirmed(state, now)
            return joined(state, candidate) if gate.tells_more(state, candidate) else state
        case Verdict.REFUSE:
            return refused(state, candidate.version, now, policy.rollback) if is_upstream else state
        case Verdict.HOLD:
            return held(state, candidate, now)


def begin_fetch(state: State) -> State:
    """Note that a fetch begins: what comes from now on asks for another one."""
    return replace(
        state, fetch_now=False, spared_by=("", 0), is_throttled=False, timers=replace(state.timers, retry_at=math.inf)
    )


def fetch_failed(state: State, reason: str, now: float, *, is_throttled: bool = False) -> State:
    """Note that upstream could not be asked, or served nothing valid: ask again as soon as a source is available."""
    timers = replace(state.timers, retry_at=now)
    return replace(state, last_error=reason, is_throttled=is_throttled, timers=timers)


def confirmed(state: State, now: float) -> State:
    """Note that upstream serves what is published."""
    if state.published:
        state = _in_generation_of_pending(state, state.published)
    return replace(state, checked=True, confirmed_at=now, rollback_evidence=(), last_error=None)


def refused(state: State, served: Version, now: float, policy: RollbackPolicy) -> State:
    """Note that upstream serves something older than what is published, or than what a new pod waits for: then ask again soon."""
    error = f"upstream serves revision {served.revision}, {gate.refusal(state, served)}"
    known = next((one for one in state.rollback_evidence if one.version == served), None)
    evidence = known.again(now, policy) if known else RollbackEvidence(served, now)
    others = [one for one in state.rollback_evidence if one.version != served]
    timers = state.timers
    if state.published is None:
        timers = replace(timers, retry_at=min(now + _ASK_AGAIN_S, state.expects_until))
    return replace(state, rollback_evidence=(*others, evidence)[-_MAX_EVIDENCE:], last_error=error, timers=timers)


def spared(state: State, by: str | None) -> State:
    """Note that another pod makes the fetch that is due; `by` names it once its check stands for ours."""
    pod, count = state.spared_by
    spared_by = state.spared_by if by is None else (by, count + 1 if pod == by else 1)
    return replace(begin_fetch(state), spared_by=spared_by)


def expect(state: State, generation: int, revision: int) -> State:
    """Note what a new pod has heard of the newest revision of its fleet since its start. It sets no target."""
    if state.published:
        return state
    newest = max((generation, revision), (state.expected.generation, state.expected.revision))
    return replace(state, expected=ExpectedRevision(newest[1], newest[0]))


# The volume


def loaded(
    state: State, version: Version, generation: int, rolled_back_from: tuple[str, ...], fetched: float | None
) -> State:
    """Note that an earlier sidecar left this datafile on the volume, or that the bootstrap file was published."""
    wanted = tuple(a for a in state.announced if a.revision > version.revision)
    return replace(
        state,
        published=version,
        is_missing=False,
        fetched=fetched,
        generation=generation,
        rolled_back_from=merged(rolled_back_from, (), version),
        announced=wanted,
    )


def unusable(state: State, reason: str) -> State:
    """Note that the file that an earlier sidecar left can't be used."""
    return missing(state, f"the file that was kept on the volume can't be used: {reason}")


def missing(state: State, reason: str) -> State:
    """Note that what was published is not on the volume any more: fetch it now. Its revision stays the floor."""
    return replace(state, is_missing=True, fetch_now=True, last_error=reason)


def write_failed(state: State, reason: str, retry_at: float) -> State:
    """Note that the volume could not be written to, and when to try again."""
    timers = replace(state.timers, retry_at=retry_at)
    return replace(state, write_failures=state.write_failures + 1, last_error=reason, timers=timers)


def written(state: State) -> State:
    """Note that a write to the volume went well, or that none was needed."""
    return replace(state, write_failures=0)


def published(state: State, candidate: Candidate, now: float) -> State:
    """Note that a candidate was renamed into place. What it fulfils is wanted no more."""
    fetch_now, is_checked = state.fetch_now, state.checked or candidate.source is Source.UPSTREAM
    if candidate.source is Source.UPSTREAM:
        state = _after_fetch(state, candidate.version)
    elif candidate.source is Source.BUS:
        state = joined(state, candidate)
    state = loaded(state, candidate.version, state.generation, state.rolled_back_from, candidate.fetched)
    if candidate.source is Source.BOOTSTRAP:
        return state
    hint_left = state.hint if fetch_now else None
    return replace(
        state,
        hint=hint_left,
        overdue=0,
        # From the bus at start, upstream or a younger check still has to confirm it.
        fetch_now=fetch_now and bool(state.announced or hint_left or not is_checked),
        checked=is_checked,
        confirmed_at=now,
        rollback_evidence=(),
        last_error=None,
    )


# Generations


def held(state: State, candidate: Candidate, now: float) -> State:
    """Note that the bus tells of a rollback: ask upstream now, unless that was done a moment ago; then in a while."""
    pending = state.pending_rollback
    is_early = pending is not None and now - pending.since < HOLD_AGAIN_S
    fetch_now = state.fetch_now or not is_early
    retry_at = state.timers.retry_at if fetch_now else min(state.timers.retry_at, now + HOLD_AGAIN_S)
    timers = replace(state.timers, retry_at=retry_at)
    return replace(state, pending_rollback=PendingRollback(candidate, now), fetch_now=fetch_now, timers=timers)


def joined(state: State, candidate: Candidate) -> State:
    """Come into the generation in which the bus has this candidate."""
    rolled_back_from = merged(state.rolled_back_from, candidate.rolled_back_from, candidate.version)
    generation = max(state.generation, candidate.generation)
    return replace(state, generation=generation, rolled_back_from=rolled_back_from, pending_rollback=None)


def is_outvoted(state: State, now: float, policy: RollbackPolicy) -> bool:
    """Tell whether upstream has served something else for so long that the pending rollback must be wrong."""
    pending_s = max(policy.insist_s, _PENDING_AT_LEAST_S)
    return state.pending_rollback is not None and now - state.pending_rollback.since >= pending_s


def outvoted(state: State) -> State:
    """Drop the pending rollback."""
    return replace(state, pending_rollback=None)


def merged(known: tuple[str, ...], more: tuple[str, ...], version: Version) -> tuple[str, ...]:
    """Return the digests that rollbacks went away from, the latest last; what is published is not among them."""
    digests = dict.fromkeys((*known, *more))
    return tuple(digest for digest in digests if digest != version.sha256)[-_MAX_ROLLED_BACK_FROM:]


def _after_fetch(state: State, version: Version) -> State:
    """Begin a generation where this goes back, or join the one in which others went back to the same."""
    joined = _in_generation_of_pending(state, version)
    if not gate.is_older(state, version):
        return joined
    generation = max(joined.generation, state.generation + (joined.generation == state.generation))
    gone = (state.published.sha256,) if state.published else ()
    return replace(joined, generation=generation, rolled_back_from=merged(joined.rolled_back_from, gone, version))


def _in_generation_of_pending(state: State, version: Version) -> State:
    """Come into the generation of the pending rollback, where what upstream serves fits to it.

    It fits where it is that candidate or newer, and nothing that the rollback went away from: then a stale edge is speaking.
    """
    if state.pending_rollback is None:
        return state
    pending = state.pending_rollback.candidate
    follows = version.revision > pending.version.revision and version.sha256 not in pending.rolled_back_from
    return joined(state, replace(pending, version=version)) if version == pending.version or follows else state
