"""How events change what is known of one SDK key.

Laws: an announced revision is wanted until it is published or overdue; news that comes during a fetch outlives that fetch; a
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
    Hint,
    PendingRollback,
    RollbackEvidence,
    RollbackPolicy,
    Source,
    State,
    Trigger,
    Version,
)

_HOLD_AGAIN_S = 10.0
"""Upstream is asked about a pending rollback at most once in this time."""
_PENDING_AT_LEAST_S = 60.0
_MAX_ANNOUNCEMENTS = 64
_MAX_ROLLED_BACK_FROM = 4

# Webhooks


def announce(state: State, revision: int, now: float, trigger: Trigger) -> State:
    """Note that a webhook named a revision of this key. Only `webhook_seen` changes where that is no news."""
    state = replace(state, webhook_seen=True)
    if state.published and revision <= state.published.revision:
        return state
    if any(known.revision == revision for known in state.announced):
        return state
    announced = sorted((*state.announced, Announcement(revision, now, trigger)), key=lambda a: -a.revision)
    return replace(state, announced=tuple(announced[:_MAX_ANNOUNCEMENTS]), fetch_now=True)


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
    return trigger is Trigger.POLL and state.webhook_seen and revision > state.overdue and state.published is not None


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
            return joined(state, candidate) if candidate.generation > state.generation else state
        case Verdict.REFUSE:
            return refused(state, candidate.version, now, policy.rollback) if is_upstream else state
        case Verdict.HOLD:
            return held(state, candidate, now)


def begin_fetch(state: State) -> State:
    """Note that a fetch begins, here or in another pod: what comes from now on asks for another one."""
    return replace(state, fetch_now=False, timers=replace(state.timers, retry_at=math.inf))


def fetch_failed(state: State, reason: str, now: float) -> State:
    """Note that upstream could not be asked, or served nothing valid: ask again as soon as a source is available."""
    return replace(state, last_error=reason, timers=replace(state.timers, retry_at=now))


def confirmed(state: State, now: float) -> State:
    """Note that upstream serves what is published."""
    if state.published:
        state = _in_generation_of_pending(state, state.published)
    return replace(state, checked=True, confirmed_at=now, rollback_evidence=None, last_error=None)


def refused(state: State, served: Version, now: float, policy: RollbackPolicy) -> State:
    """Note that upstream serves something older than what is published."""
    evidence = state.rollback_evidence.again(now, policy) if state.rollback_evidence else RollbackEvidence(now)
    error = f"upstream serves revision {served.revision}, older than {state.revision}, which is on the volume"
    return replace(state, rollback_evidence=evidence, last_error=error)


# The volume


def loaded(state: State, version: Version, generation: int, fetched: float | None) -> State:
    """Note that an earlier sidecar left this datafile on the volume, or that the bootstrap file was published."""
    wanted = tuple(a for a in state.announced if a.revision > version.revision)
    return replace(state, published=version, fetched=fetched, generation=generation, announced=wanted)


def unusable(state: State, reason: str) -> State:
    """Note that the file that an earlier sidecar left can't be used."""
    return replace(state, last_error=f"the file that was kept on the volume can't be used: {reason}")


def missing(state: State) -> State:
    """Note that what was published is not on the volume any more: fetch it now."""
    return replace(state, published=None, fetched=None, fetch_now=True)


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
    state = loaded(state, candidate.version, state.generation, candidate.fetched)
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
        rollback_evidence=None,
        last_error=None,
    )


# Generations


def held(state: State, candidate: Candidate, now: float) -> State:
    """Note that the bus tells of a rollback: ask upstream now, unless that was done a moment ago; then in a while."""
    pending = state.pending_rollback
    is_early = pending is not None and now - pending.since < _HOLD_AGAIN_S
    fetch_now = state.fetch_now or not is_early
    retry_at = state.timers.retry_at if fetch_now else min(state.timers.retry_at, now + _HOLD_AGAIN_S)
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
