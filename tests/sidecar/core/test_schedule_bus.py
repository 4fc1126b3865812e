"""When upstream is asked for what the bus could not bring, and when other pods' checks count for a pod that is cut off."""

import math
from dataclasses import replace

import pytest

from datafile_sidecar.core import schedule
from datafile_sidecar.core.schedule import Action, Pace
from datafile_sidecar.core.state import RollbackEvidence, State, Timers, Version

NOW = 1000.0
KEPT = State(
    published=Version(43, "a" * 64), fetch_now=False, checked=True, confirmed_at=NOW, timers=Timers(poll_at=NOW + 50)
)
PACE = Pace(60, 0.5)


@pytest.mark.parametrize(
    ("pace", "timers", "at", "action"),
    [
        (PACE, Timers(poll_at=NOW + 50), NOW + 1.25, Action.ASK_PODS),
        (PACE, Timers(poll_at=NOW + 0.5), NOW + 0.5, Action.ASK_PODS),
        (Pace(2, 0.5), Timers(poll_at=NOW + 2), NOW + 0.625, Action.ASK_PODS),
        (Pace(0, 0.5), Timers(), NOW + 1.25, Action.ASK_PODS),
        (Pace(0, 0.5), Timers(retry_at=NOW + 0.5), NOW + 0.5, Action.ASK_PODS),
    ],
)
def test_what_the_bus_could_not_bring_is_fetched_soon(pace: Pace, timers: Timers, at: float, action: Action) -> None:
    """As a poll, which one pod makes for all; and once only where polling is off."""
    state = schedule.fetch_soon(replace(KEPT, timers=timers), pace, NOW, 0.75)
    assert schedule.next_action(state, 0.0, has_candidate=False) == (at, action)
    assert (state.timers.poll_at == math.inf) is (pace.poll_interval_s == 0)


@pytest.mark.parametrize(
    ("state", "asks"),
    [
        (KEPT, True),
        (replace(KEPT, confirmed_at=NOW - 151), False),
        (replace(KEPT, confirmed_at=NOW - 151, last_error="unreachable"), True),
        (
            replace(
                KEPT,
                confirmed_at=NOW - 151,
                last_error="older",
                rollback_evidence=(RollbackEvidence(Version(42, "b" * 64), NOW),),
            ),
            False,
        ),
    ],
)
def test_a_pod_that_is_cut_off_lives_by_the_others(state: State, asks: bool) -> None:
    """However long its own upstream has failed. One that is served something older hears for itself how long that lasts."""
    assert schedule.asks_pods(state, PACE, NOW) is asks
    assert not schedule.asks_pods(state, Pace(0, 0.5), NOW)
