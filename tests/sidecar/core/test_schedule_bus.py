"""When upstream is asked for what the bus could not bring, and when other pods' checks count for a pod that is cut off."""

import math
from dataclasses import replace

import pytest

from datafile_sidecar.core import backoff, schedule
from datafile_sidecar.core.schedule import Action, Pace
from datafile_sidecar.core.state import (
    Announcement,
    Candidate,
    Hint,
    PendingRollback,
    RollbackEvidence,
    Source,
    State,
    Timers,
    Trigger,
    Version,
)

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


PEER = Announcement(44, NOW, Trigger.PEER)
DIRECT = Announcement(45, NOW, Trigger.WEBHOOK)
PENDING = PendingRollback(Candidate(Version(42, "b" * 64), Source.BUS, generation=1), NOW)


@pytest.mark.parametrize(
    ("changes", "shares"),
    [
        ({"announced": (PEER,)}, True),
        ({"hint": Hint(NOW, Trigger.PEER)}, True),
        ({"announced": (PEER,), "hint": Hint(NOW, Trigger.PEER)}, True),
        ({}, False),
        ({"announced": (DIRECT, PEER)}, False),
        ({"announced": (PEER,), "hint": Hint(NOW, Trigger.WEBHOOK)}, False),
        ({"announced": (PEER,), "is_missing": True}, False),
        ({"announced": (PEER,), "published": None}, False),
        ({"announced": (PEER,), "write_failures": 1}, False),
        ({"announced": (PEER,), "pending_rollback": PENDING}, False),
    ],
    ids=str,
)
def test_only_what_every_pod_was_told_of_is_chased_by_one(changes: dict[str, object], shares: bool) -> None:
    """A pod with a webhook of its own, without a datafile, with a full volume, or with a rollback to confirm asks for itself."""
    assert schedule.shares_chase(replace(KEPT, **changes)) is shares  # type: ignore[arg-type]


@pytest.mark.parametrize(("elapsed_s", "lease_s"), [(0.0, 2.0), (6.0, 2.0), (60.0, 8.6), (600.0, 60.0)])
def test_the_pod_that_chases_does_so_for_some_fetches(elapsed_s: float, lease_s: float) -> None:
    """For two seconds, and later for two pauses; the others ask again after half of that to one and a half times that."""
    state = replace(KEPT, announced=(Announcement(43, NOW - 500, Trigger.PEER), PEER))
    now = NOW + elapsed_s
    assert schedule.chase_lease_s(state, now) == pytest.approx(lease_s)
    for jitter, factor in ((0.0, 0.5), (0.99, 1.49)):
        later = schedule.planned(schedule.chase_later(state, now, jitter), PACE, now, lambda: 0.5)
        pause_s = max(factor * lease_s, backoff.chase_pause(elapsed_s, 0.5))
        assert later.timers.chase_at - now == pytest.approx(pause_s)


def test_a_pod_with_a_webhook_of_its_own_waits_for_no_other() -> None:
    """What it had put off when it was only told of a revision does not hold up the one that it now chases."""
    state = schedule.chase_later(replace(KEPT, announced=(PEER,)), NOW, 0.9)
    later = schedule.planned(replace(state, announced=(DIRECT, PEER)), PACE, NOW, lambda: 0.5)
    assert later.timers.chase_at - NOW < 0.2


@pytest.mark.parametrize(
    ("changes", "lease_s"),
    [
        ({"timers": Timers()}, 10.0),
        ({"timers": Timers(retry_at=NOW)}, None),
        ({"timers": Timers(retry_at=NOW), "is_throttled": True}, 10.0),
    ],
)
def test_after_a_429_the_fleet_asks_one_after_the_other(changes: dict[str, object], lease_s: float | None) -> None:
    """A pod that failed asks again without a lease, to hold up no other; one that was asked to slow down takes its turn."""
    assert schedule.lease_s(replace(KEPT, **changes), PACE, NOW) == lease_s  # type: ignore[arg-type]
    assert schedule.lease_s(replace(KEPT, **changes), Pace(5, 0.5), NOW) == (lease_s and 5)  # type: ignore[arg-type]
