"""When each thing is due, case by case."""

import math
from dataclasses import replace

import pytest

from datafile_sidecar.core import backoff, reconcile, schedule
from datafile_sidecar.core.schedule import Action, Pace
from datafile_sidecar.core.state import (
    Announcement,
    Candidate,
    Hint,
    PendingRollback,
    Source,
    State,
    Timers,
    Trigger,
    Version,
)

NOW = 1000.0
PACE = Pace(poll_interval_s=60, offset=0.5)
NO_POLLS = replace(PACE, poll_interval_s=0)
NEVER = math.inf
KEPT = State(published=Version(42, "a"), fetch_now=False, checked=True, confirmed_at=NOW)
WEBHOOK, PEER, POLL = Trigger.WEBHOOK, Trigger.PEER, Trigger.POLL


def due(state: State, **times: float) -> State:
    """The state with these timers."""
    return replace(state, timers=Timers(**times))


@pytest.mark.parametrize(("has_bus", "not_before"), [(True, NOW + 0.5), (False, 0.0)])
def test_a_bus_has_half_a_second_at_the_start(has_bus: bool, not_before: float) -> None:
    """A new pod asks upstream at once, or half a second later where the bus may have the datafile already."""
    state = schedule.started(State(), NOW, has_bus=has_bus)
    assert (state.timers, state.confirmed_at) == (Timers(not_before=not_before), NOW)


@pytest.mark.parametrize(
    ("trigger", "has_bus", "jitter", "not_before"),
    [
        (WEBHOOK, True, 0.8, 0.0),
        (WEBHOOK, False, 0.8, 0.0),
        (PEER, True, 0.0, NOW + 0.5),
        (PEER, True, 0.8, NOW + 0.7),
        (PEER, False, 0.0, NOW),
        (PEER, False, 0.8, NOW + 0.08),
    ],
)
def test_a_relayed_webhook_leaves_the_first_fetch_to_another_pod(
    trigger: Trigger, has_bus: bool, jitter: float, not_before: float
) -> None:
    """One pod fetches at once after a webhook; the others give the bus a moment, or spread their fetches without one."""
    before = due(KEPT, not_before=NOW + 9)
    after = replace(before, fetch_now=True)
    state = schedule.woken(before, after, NOW, trigger, jitter, has_bus=has_bus)
    assert state.timers.not_before == pytest.approx(not_before, abs=1e-6)


def test_after_the_bus_has_answered_upstream_is_asked_at_once() -> None:
    """A fleet with an empty bus doesn't wait for it."""
    assert schedule.bus_answered(due(KEPT, not_before=NOW, poll_at=5)) == due(KEPT, poll_at=5)


URGENT = replace(KEPT, fetch_now=True)
NOTHING_PUBLISHED = replace(KEPT, published=None)


@pytest.mark.parametrize(
    ("case", "state", "source_at", "at", "action"),
    [
        ("nothing is due", KEPT, 0, NEVER, Action.ASK_PODS),
        ("a poll", due(KEPT, poll_at=7), 0, 7, Action.ASK_PODS),
        ("a chase", due(KEPT, poll_at=7, chase_at=6), 0, 6, Action.ASK_PODS),
        ("a retry", due(KEPT, poll_at=7, chase_at=6, retry_at=5), 0, 5, Action.ASK_PODS),
        ("urgent", due(URGENT, poll_at=7, not_before=4), 0, 4, Action.ASK_PODS),
        ("not urgent", due(KEPT, poll_at=7, not_before=4), 0, 7, Action.ASK_PODS),
        ("all sources back off", due(URGENT, poll_at=NEVER), 9, 9, Action.ASK_PODS),
        ("all sources back off, a poll is due", due(URGENT, poll_at=7), 9, 7, Action.ASK_PODS),
        ("the first poll", replace(URGENT, checked=False), 0, 0, Action.ASK_PODS),
        ("a webhook", replace(URGENT, announced=(Announcement(43, 0, WEBHOOK),)), 0, 0, Action.FETCH),
        ("nothing is published", due(NOTHING_PUBLISHED, poll_at=7), 0, 7, Action.FETCH),
        ("the volume failed", due(replace(URGENT, write_failures=1), poll_at=7, retry_at=8), 0, 8, Action.FETCH),
    ],
)
def test_what_is_due_first_is_done_next(case: str, state: State, source_at: float, at: float, action: Action) -> None:
    """A datafile that is wanted comes as soon as it may; only a mere poll is first looked for among the other pods."""
    assert schedule.next_action(state, source_at, has_candidate=False) == (at, action), case


def test_a_candidate_of_the_bus_is_admitted_before_anything_else() -> None:
    """A datafile that another pod shared is used at once, even while all sources back off."""
    assert schedule.next_action(KEPT, NOW + 600, has_candidate=True) == (0.0, Action.ADMIT)


@pytest.mark.parametrize(
    ("case", "pace", "now", "asks"),
    [
        ("just confirmed", PACE, NOW, True),
        ("two and a half intervals ago", PACE, NOW + 150, True),
        ("longer ago", PACE, NOW + 150.1, False),
        ("frequent polls", replace(PACE, poll_interval_s=1), NOW + 1, True),
        ("no polls", NO_POLLS, NOW, False),
    ],
)
def test_other_pods_polls_count_while_upstream_is_confirmed(case: str, pace: Pace, now: float, asks: bool) -> None:
    """A fleet sends one poll per interval, but a pod that hears nothing for two and a half asks upstream itself."""
    assert schedule.asks_pods(KEPT, pace, now) is asks, case


@pytest.mark.parametrize(
    ("poll_interval_s", "retry_at", "lease_s"),
    [(60, NEVER, 10), (4, NEVER, 4), (60, NOW + 1, 10), (60, NOW, None), (60, NOW - 1, None)],
)
def test_a_lease_is_short_and_skipped_after_a_failure(
    poll_interval_s: float, retry_at: float, lease_s: float | None
) -> None:
    """A pod that dies during its poll holds up the fleet for ten seconds at most, and a retry waits for no other pod."""
    pace = replace(PACE, poll_interval_s=poll_interval_s)
    assert schedule.lease_s(due(KEPT, retry_at=retry_at), pace, NOW) == lease_s


@pytest.mark.parametrize(
    ("poll_interval_s", "jitter", "wait_s"), [(60, 0.0, 0.5), (60, 0.75, 1.25), (2, 0.0, 0.25), (2, 0.5, 0.5)]
)
def test_the_result_of_another_pods_poll_is_looked_for_soon(
    poll_interval_s: float, jitter: float, wait_s: float
) -> None:
    """What another pod's poll found is here within a second and a half, or sooner where polls are frequent."""
    state = schedule.look_again(due(KEPT, poll_at=0), replace(PACE, poll_interval_s=poll_interval_s), NOW, jitter)
    assert state == due(KEPT, poll_at=NOW + wait_s)


OLD, OLDER = Candidate(Version(41, "o"), Source.BUS, 1, 1), Candidate(Version(40, "p"), Source.BUS, 1, 2)
ASKED = replace(KEPT, pending_rollback=PendingRollback(OLD, NOW - 1))


@pytest.mark.parametrize(
    ("state", "retry_at"),
    [
        (ASKED, NOW + reconcile.HOLD_AGAIN_S),
        (due(ASKED, retry_at=NOW + 3), NOW + 3),
        (due(ASKED, retry_at=NOW + 99), NOW + reconcile.HOLD_AGAIN_S),
        (replace(ASKED, fetch_now=True), NEVER),
    ],
)
def test_a_pending_rollback_is_asked_about_in_a_while(state: State, retry_at: float) -> None:
    """A rollback of the fleet reaches this pod within ten seconds, and an invented one costs few fetches."""
    assert reconcile.held(state, OLDER, NOW).timers.retry_at == retry_at


def test_a_pending_rollback_that_is_new_is_asked_about_at_once() -> None:
    """The first news of a rollback waits for no timer."""
    state = reconcile.held(KEPT, OLD, NOW)
    assert schedule.next_action(state, 0, has_candidate=False) == (0.0, Action.FETCH)


@pytest.mark.parametrize(
    ("case", "pace", "poll_at", "planned_at"),
    [
        ("the first", PACE, NEVER, 1053),
        ("in time", PACE, NOW + 1, NOW + 1),
        ("just due", PACE, NOW, 1053),
        ("overdue", PACE, NOW - 1, 1053),
        ("no polls", NO_POLLS, NEVER, NEVER),
    ],
)
def test_the_next_poll_is_planned_when_the_last_is_done(
    case: str, pace: Pace, poll_at: float, planned_at: float
) -> None:
    """Polls come once an interval, at this pod's own offset in it, and never while polling is off."""
    state = schedule.planned(due(KEPT, poll_at=poll_at), pace, NOW, lambda: 0.5)
    assert state.timers.poll_at == planned_at, case
    assert state.timers.chase_at == NEVER


CHASED = replace(KEPT, announced=(Announcement(44, NOW - 60, WEBHOOK), Announcement(43, NOW - 120, WEBHOOK)))
HINTED = replace(KEPT, hint=Hint(NOW - 2, WEBHOOK))


@pytest.mark.parametrize(
    ("case", "state", "wait_s"),
    [
        ("nothing is wanted", KEPT, None),
        ("a fetch is due", replace(CHASED, fetch_now=True), 0.0),
        ("announced", CHASED, backoff.chase_pause(60, 0.5)),
        ("the highest came first", replace(CHASED, announced=CHASED.announced[::-1]), backoff.chase_pause(60, 0.5)),
        ("a hint", HINTED, backoff.hint_pause(2, 0.5)),
        ("both", replace(CHASED, hint=HINTED.hint), backoff.hint_pause(2, 0.5)),
        ("both, an old hint", replace(CHASED, hint=Hint(NOW - 59, WEBHOOK)), backoff.chase_pause(60, 0.5)),
    ],
)
def test_what_a_webhook_set_off_is_fetched_again_after_its_pause(case: str, state: State, wait_s: float | None) -> None:
    """The pause before the next fetch fits the latest webhook, so that a new one is never slowed down by an old one."""
    at = schedule.planned(state, NO_POLLS, NOW, lambda: 0.5).timers.chase_at
    assert at == (NEVER if wait_s is None or state.fetch_now else NOW + wait_s), case
