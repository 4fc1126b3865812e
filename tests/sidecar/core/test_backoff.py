"""The pauses: fast where it matters, bounded where it could hurt."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datafile_sidecar.core import backoff

jitters = st.floats(0, 1, exclude_max=True)


@pytest.mark.parametrize("jitter", [0.0, 0.5, 0.999])
def test_a_chase_costs_fewer_than_forty_fetches_in_six_seconds(jitter: float) -> None:
    """Upstream is not hammered while it still serves the old revision, however fast it answers."""
    now, fetches = 0.0, 0
    while now < 6:
        fetches += 1
        now += backoff.chase_pause(now, jitter)
    assert 20 < fetches < 40


@given(st.floats(1, 350), jitters, jitters)
def test_each_of_two_sources_is_asked_within_a_sixth_of_the_lag(lag_s: float, first: float, second: float) -> None:
    """Whichever source serves a revision first, it is noticed within a second or a sixth of the time that it took."""
    missed_at = lag_s
    other_at = missed_at + backoff.chase_pause(missed_at, first)
    again_at = other_at + backoff.chase_pause(other_at, second)
    assert again_at - lag_s <= max(1.0, lag_s / 6)


@given(st.floats(0, 600), jitters)
def test_no_pause_of_a_chase_is_longer_than_half_a_minute(elapsed_s: float, jitter: float) -> None:
    """Even late in a chase the new revision is found within half a minute."""
    assert 0.05 < backoff.chase_pause(elapsed_s, jitter) <= backoff.MAX_PAUSE_S


@pytest.mark.parametrize("jitter", [0.0, 0.5, 0.999])
def test_a_hint_costs_few_fetches(jitter: float) -> None:
    """An event that may be another environment's makes us look about eight times in its minute."""
    now, fetches = 0.0, 0
    while now < backoff.HINT_FOR_S:
        fetches += 1
        now += backoff.hint_pause(now, jitter)
    assert 5 <= fetches <= 10


@given(st.integers(1, 10_000), jitters)
def test_failures_are_retried_with_growing_bounded_pauses(failures: int, jitter: float) -> None:
    """The first retry comes at once, the thousandth within half a minute."""
    pause = backoff.failure_pause(failures, jitter)
    assert 0.1 < pause <= backoff.MAX_PAUSE_S
    assert backoff.failure_pause(failures + 1, 0) >= backoff.failure_pause(failures, 0)
    assert backoff.failure_pause(1, jitter) <= 0.25


@pytest.mark.parametrize(
    ("poll_interval_s", "retry_after_s", "wait_s"),
    [(10, None, 60), (300, None, 300), (0, None, 60), (10, 5.0, 5), (10, 0.0, 1)],
)
def test_a_source_that_refuses_is_left_alone(
    poll_interval_s: float, retry_after_s: float | None, wait_s: float
) -> None:
    """For as long as it asked, but never less than a second; else for a minute or the poll interval."""
    assert backoff.refusal_pause(poll_interval_s, retry_after_s) == wait_s


@given(st.floats(0, 1e7), st.floats(1, 3600), jitters, jitters)
def test_polls_keep_their_distance(now: float, interval_s: float, offset: float, jitter: float) -> None:
    """The next poll comes within about one interval and is never due at once."""
    wait_s = backoff.next_poll(now, interval_s, offset, jitter) - now
    assert interval_s * 0.2 < wait_s < interval_s * 1.4


def test_polls_of_a_pod_keep_their_rhythm() -> None:
    """A pod polls once an interval, at its own place in it."""
    at = [0.0]
    for _ in range(20):
        at.append(backoff.next_poll(at[-1], 60, 0.5, 0.3))
    assert all(abs(later - earlier - 60) < 7 for earlier, later in itertools.pairwise(at[1:]))


def test_a_fleet_that_started_at_once_spreads_its_polls() -> None:
    """Twenty pods of one workload poll over most of the interval, not all in one second, and keep their places."""
    places = [backoff.place(f"shop-0-{number}", "KEY1") for number in range(20)]
    assert places == [backoff.place(f"shop-0-{number}", "KEY1") for number in range(20)]
    polls = sorted(backoff.next_poll(1000.0, 60, place, 0.5) for place in places)
    assert polls[-1] - polls[0] > 40
    assert max(later - earlier for earlier, later in itertools.pairwise(polls)) < 20
