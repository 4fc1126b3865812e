"""The gate: what to do with a datafile that may be published, wherever it comes from.

Laws: a published revision never goes back, unless upstream has insisted on it for long enough, or upstream confirms a rollback
of which the bus tells. Within a generation the newer datafile is published, and nothing that a rollback went away from. A new
generation is never taken on another pod's word. A pod that has nothing takes what there is.
"""

from dataclasses import dataclass
from enum import StrEnum

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
    if candidate.version == state.published:
        return Verdict.UNCHANGED
    if candidate.source is Source.BUS:
        return _from_bus(state, candidate)
    if state.published is None:
        return Verdict.PUBLISH
    if candidate.source is Source.BOOTSTRAP:
        return Verdict.REFUSE
    if not is_older(state, candidate.version):
        return Verdict.PUBLISH
    pending, evidence = state.pending_rollback, state.rollback_evidence
    is_confirmed = pending is not None and pending.candidate.version == candidate.version
    is_believed = evidence is not None and evidence.is_enough(now, policy.rollback)
    return Verdict.ROLL_BACK if is_confirmed or is_believed else Verdict.REFUSE


def is_useful(state: State, candidate: Candidate) -> bool:
    """Tell whether the datafile that a message of the bus describes is worth reading."""
    if candidate.version == state.published:
        return candidate.generation > state.generation
    return _from_bus(state, candidate) is not Verdict.REFUSE


def is_older(state: State, version: Version) -> bool:
    """Tell whether this is older than what is published, or something that a rollback went away from."""
    if state.published is None or version == state.published:
        return False
    return version.revision < state.published.revision or version.sha256 in state.rolled_back_from


def accepts_check(state: State, sha256: str, at: float, last_check: float | None, now: float, max_age_s: float) -> bool:
    """Tell whether another pod's check stands for ours: of the same bytes, younger than ours and `max_age_s`, not of the future.

    All times are Unix seconds.
    """
    is_same = state.published is not None and state.published.sha256 == sha256
    return is_same and max(last_check or 0.0, now - max_age_s) < at <= now


def _from_bus(state: State, candidate: Candidate) -> Verdict:
    if candidate.generation < state.generation:
        return Verdict.REFUSE
    if state.published is None:
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
