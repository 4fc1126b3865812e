"""When to do what: every timer of one SDK key, in one pure place.

Times are seconds of one monotonic clock, handed in; `inf` means never. `jitter` is a random number in [0, 1).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Final

from datafile_sidecar.core import backoff
from datafile_sidecar.core.state import State, Trigger

BUS_GRACE_S: Final = 0.5
"""For how long a relayed webhook, and the start, leave it to the bus to bring the datafile."""
PEERS_GRACE_S: Final = 1.0
"""For how long a new pod waits for its peers to tell what they have, before it asks upstream."""
LEASE_S: Final = 10.0
CHASE_LEASE_S: Final = 2.0
"""For how long, at least, one pod chases for all that were only told of a revision by another pod."""
_SPREAD_S = 0.25
_SPREAD_WITHOUT_BUS_S = 0.1
_LOOK_AGAIN_S = 1.0
_HINT_AGAIN_S = 1.0
_ALONE_AFTER_INTERVALS = 2.5


class Action(Enum):
    """What the loop of a key does next."""

    ADMIT = auto()
    """Look at the candidate that the bus has brought."""
    ASK_PODS = auto()
    """Ask the bus whether another pod has just polled; upstream, if none has."""
    FETCH = auto()
    """Ask upstream."""


@dataclass(frozen=True, slots=True)
class Pace:
    """The intervals of one key, in seconds. `offset` is this pod's part of a poll interval, 0 to 1."""

    poll_interval_s: float
    offset: float


def started(state: State, now: float, *, has_bus: bool, asks_peers: bool = False) -> State:
    """Begin: a bus has a moment to bring what it has; without one, peers have it to tell a new pod what they have."""
    not_before = now + BUS_GRACE_S if has_bus else now + PEERS_GRACE_S if asks_peers else 0.0
    return _timed(replace(state, confirmed_at=now), not_before=not_before)


def woken(before: State, after: State, now: float, trigger: Trigger, jitter: float, *, has_bus: bool) -> State:
    """Hasten the fetch that a webhook asks for: at once where it came directly, since other pods wait for this one.

    Where another pod relayed it, that pod may bring the datafile by the bus. Without a bus the fetches of all pods are spread.
    """
    if before.hint is not None and before.announced == after.announced and now - before.hint.at < _HINT_AGAIN_S:
        # One hint after another, perhaps replayed: the next fetch comes a second after the last.
        return after if before.fetch_now else _timed(after, not_before=now + _HINT_AGAIN_S)
    if trigger is not Trigger.PEER:
        return _timed(after, not_before=0.0)
    if before.fetch_now or not after.fetch_now:
        return after
    wait_s = BUS_GRACE_S + jitter * _SPREAD_S if has_bus else jitter * _SPREAD_WITHOUT_BUS_S
    return _timed(after, not_before=now + wait_s)


def bus_answered(state: State) -> State:
    """Wait no longer for the bus, or for peers: they have said all that they have."""
    return _timed(state, not_before=0.0)


def next_action(state: State, source_available_at: float, *, has_candidate: bool) -> tuple[float, Action]:
    """Return when to act next, and how. `source_available_at` is when a source of upstream may be asked again.

    While the volume can't be written to, its retries set the pace: nothing is fetched that can't be published.
    """
    if has_candidate:
        return 0.0, Action.ADMIT
    timers = state.timers
    if state.write_failures:
        return max(timers.retry_at, source_available_at), Action.FETCH
    urgent_at = timers.not_before if state.fetch_now else math.inf
    fetch_at = max(min(urgent_at, timers.chase_at, timers.retry_at, timers.poll_at), source_available_at)
    if state.trigger not in {Trigger.POLL, Trigger.STARTUP} or state.on_volume is None:
        return fetch_at, Action.FETCH
    # Another pod's check needs no source of ours.
    return min(fetch_at, timers.poll_at), Action.ASK_PODS


def asks_pods(state: State, pace: Pace, now: float) -> bool:
    """Tell whether another pod's poll may stand for ours.

    Not where polling is off, nor when nothing has confirmed what is published for too long, unless upstream can't be reached from
    here. An answer that was refused confirms nothing: each pod must hear it for itself before it believes a rollback.
    """
    is_confirmed = now - state.confirmed_at <= _ALONE_AFTER_INTERVALS * pace.poll_interval_s
    is_cut_off = state.last_error is not None and not state.rollback_evidence
    return bool(pace.poll_interval_s) and (is_confirmed or is_cut_off)


def lease_s(state: State, pace: Pace, now: float) -> float | None:
    """Return how long the lease of a poll lasts, in seconds; None after a failure, when upstream is asked without one.

    Not where upstream asked for fewer requests: then the fleet asks one after the other.
    """
    return min(LEASE_S, pace.poll_interval_s) if state.timers.retry_at > now or state.is_throttled else None


def shares_chase(state: State) -> bool:
    """Tell whether other pods chase the same: every webhook was relayed, and nothing else makes this pod ask for itself."""
    is_own = state.on_volume is None or state.write_failures or state.pending_rollback
    triggers = {announced.trigger for announced in state.announced} | ({state.hint.trigger} if state.hint else set())
    return triggers == {Trigger.PEER} and not is_own


def chase_lease_s(state: State, now: float) -> float:
    """Return how long a pod chases for others, in seconds: twice the pause between two fetches, and some of them at least."""
    return max(CHASE_LEASE_S, 2 * backoff.chase_pause(_chased_s(state, now), 0.0))


def chase_later(state: State, now: float, jitter: float) -> State:
    """Ask in a while whether another pod still chases."""
    return _timed(state, chase_not_before=now + chase_lease_s(state, now) * (0.5 + jitter))


def look_again(state: State, pace: Pace, now: float, jitter: float) -> State:
    """Look soon for the result of another pod's poll."""
    return _timed(state, poll_at=now + min(_LOOK_AGAIN_S, pace.poll_interval_s / 4) * (0.5 + jitter))


def fetch_soon(state: State, pace: Pace, now: float, jitter: float) -> State:
    """Ask upstream for what the bus announced and could not bring: like a poll, which one pod makes for all."""
    if not pace.poll_interval_s:
        return _timed(state, retry_at=min(state.timers.retry_at, now + _LOOK_AGAIN_S * (0.5 + jitter)))
    soon = look_again(state, pace, now, jitter).timers.poll_at
    return _timed(state, poll_at=min(state.timers.poll_at, soon))


def planned(state: State, pace: Pace, now: float, jitter: Callable[[], float]) -> State:
    """Arrange for the next chase and the next poll, after something was done. `jitter` draws a random number in [0, 1)."""
    poll_at = state.timers.poll_at
    chase_at = math.inf if state.fetch_now else _chase_at(state, now, jitter())
    if pace.poll_interval_s and not now < poll_at < math.inf:
        poll_at = backoff.next_poll(now, pace.poll_interval_s, pace.offset, jitter())
    return _timed(state, chase_at=chase_at, poll_at=poll_at)


def _chase_at(state: State, now: float, jitter: float) -> float:
    """Return when the next fetch is due for what webhooks set off."""
    pauses = [math.inf]
    if state.announced:
        pauses.append(backoff.chase_pause(now - max(a.at for a in state.announced), jitter))
    if state.hint:
        pauses.append(backoff.hint_pause(now - state.hint.at, jitter))
    return max(now + min(pauses), state.timers.chase_not_before if shares_chase(state) else 0.0)


def _chased_s(state: State, now: float) -> float:
    """Return the seconds since the last webhook that asks for fetches."""
    heard = [*(announced.at for announced in state.announced), *([state.hint.at] if state.hint else [])]
    return now - max(heard, default=now)


def _timed(state: State, **times: float) -> State:
    return replace(state, timers=replace(state.timers, **times))
