"""The gate: what to do with a datafile that may be published, wherever it comes from.

Invariants: a published revision never goes back, unless upstream has insisted on it for long enough, or upstream confirms a
rollback of which the bus tells. Within a generation the newer datafile is published, and nothing that a rollback went away
from. A new generation is never taken on another pod's word. A pod that has nothing takes what there is.
"""

from dataclasses import dataclass
from enum import StrEnum

from datafile_sidecar.core.bus_record import Check
from datafile_sidecar.core.state import Candidate, RollbackPolicy, Source, State, Version


class Verdict(StrEnum):
    """What to do with a candidate."""

    PUBLISH = "publish"
    ROLL_BACK = "roll_back"
    """It is older than what is published, and upstream means it: publish it, in a new generation."""
    UNCHANGED = "unchanged"
    """It is what is published already."""
    REFUSE = "refuse"
    HOLD = "hold"
    """Another pod says that upstream went back to it: ask upstream before it is believed."""


@dataclass(frozen=True, slots=True)
class AdmissionPolicy:
    """What the settings say about candidates."""

    rollback: RollbackPolicy


def admit(state: State, candidate: Candidate, now: float, policy: AdmissionPolicy) -> Verdict:
    """Decide about one candidate.

    Args:
        now: Seconds of the clock that the state's times are from.
    """
    if candidate.version == state.on_volume:
        return Verdict.UNCHANGED
    if candidate.source is Source.BUS:
        return _from_bus(state, candidate)
    if state.published is None:
        return Verdict.REFUSE if _is_behind_fleet(state, candidate, now) else Verdict.PUBLISH
    if candidate.source is Source.BOOTSTRAP:
        return Verdict.REFUSE
    if not is_older(state, candidate.version):
        return Verdict.PUBLISH
    pending = state.pending_rollback
    is_confirmed = pending is not None and pending.candidate.version == candidate.version
    return Verdict.ROLL_BACK if is_confirmed or _is_believed(state, candidate, now, policy) else Verdict.REFUSE


def refusal(state: State, version: Version) -> str:
    """Return why a version that upstream serves is refused, in words that can follow "revision 42, "."""
    if is_older(state, version) and state.published:
        return f"older than {state.published.revision}, which is published"
    return "older than what other pods have"


def should_read(state: State, candidate: Candidate, now: float, policy: AdmissionPolicy) -> bool:
    """Tell whether the datafile that a message of the bus describes is worth reading."""
    if candidate.version == state.on_volume:
        return tells_more(state, candidate)
    return admit(state, candidate, now, policy) is not Verdict.REFUSE


def tells_more(state: State, candidate: Candidate) -> bool:
    """Tell whether the bus knows of what is published a later generation, or more that rollbacks went away from."""
    if candidate.generation != state.generation:
        return candidate.generation > state.generation
    return not {*candidate.rolled_back_from} - {candidate.version.sha256} <= {*state.rolled_back_from}


def is_older(state: State, version: Version) -> bool:
    """Tell whether this is older than what is published, or something that a rollback went away from."""
    if state.published is None or version == state.published:
        return False
    return version.revision < state.published.revision or version.sha256 in state.rolled_back_from


def accepts_check(
    state: State, check: Check, last_check: float | None, now: float, max_age_s: float, most: int
) -> bool:
    """Tell whether another pod's check stands for ours: of the same bytes, younger than ours and `max_age_s`, not of the future.

    At most so many in a row by one pod: its view of upstream may be stale, so each pod asks for itself now and then. All times
    are Unix seconds.
    """
    pod, count = state.spared_by
    is_same = state.on_volume is not None and state.on_volume.sha256 == check.sha256
    is_young = max(last_check or 0.0, now - max_age_s) < check.at <= now
    return is_same and is_young and not (pod == check.by and count >= most)


def _is_believed(state: State, candidate: Candidate, now: float, policy: AdmissionPolicy) -> bool:
    """Tell whether upstream has insisted on exactly this version, and serves nothing else that is newer and older than ours."""
    served = {evidence.version: evidence for evidence in state.rollback_evidence}
    evidence = served.pop(candidate.version, None)
    recent = [one for one in served.values() if now - one.at <= policy.rollback.max_gap_s]
    is_newest = all(one.version.revision <= candidate.version.revision for one in recent)
    return evidence is not None and is_newest and evidence.is_enough(now, policy.rollback)


def _is_behind_fleet(state: State, candidate: Candidate, now: float) -> bool:
    """Tell whether a new pod would begin with something older than the fleet has; it waits for the newer one for a moment."""
    expected, revision = state.expected, candidate.version.revision
    is_older = revision < expected.revision or (expected.generation > 0 and revision != expected.revision)
    return now < state.expects_until and is_older


def _from_bus(state: State, candidate: Candidate) -> Verdict:
    if candidate.generation < state.generation:
        return Verdict.REFUSE
    if state.published is None or candidate.version == state.published:
        return Verdict.PUBLISH
    if candidate.generation > state.generation:
        return Verdict.REFUSE if _is_pending(state, candidate) else Verdict.HOLD
    if candidate.version.sha256 in state.rolled_back_from:
        return Verdict.REFUSE
    ours = state.published.revision, state.fetched or 0.0
    theirs = candidate.version.revision, candidate.fetched or 0.0
    return Verdict.PUBLISH if theirs > ours else Verdict.REFUSE


def _is_pending(state: State, candidate: Candidate) -> bool:
    pending = state.pending_rollback.candidate if state.pending_rollback else None
    return pending is not None and (pending.version, pending.generation) == (candidate.version, candidate.generation)
