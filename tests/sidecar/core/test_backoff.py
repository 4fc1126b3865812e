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


@pytest.mark.parametrize(
    ("elapsed_s", "jitter", "pause_s"),
    [(0, 0.0, 0.086), (0, 0.5, 0.0905), (1.2, 0.0, 0.086), (60, 0.0, 4.3), (60, 0.5, 4.525), (600, 0.5, 30)],
)
def test_a_chase_slows_down(elapsed_s: float, jitter: float, pause_s: float) -> None:
    """A revision that upstream is late to serve is asked for less and less often, and never less than twice a minute."""
    assert backoff.chase_pause(elapsed_s, jitter) == pytest.approx(pause_s)


@pytest.mark.parametrize(
    ("elapsed_s", "jitter", "pause_s"),
    [(0, 0.0, 0.45), (0, 0.5, 0.5), (0.6, 0.5, 0.6), (4, 0.0, 3.6), (4, 0.5, 4), (20, 0.75, 21), (59, 0.0, 30)],
)
def test_the_pauses_after_a_hint_grow(elapsed_s: float, jitter: float, pause_s: float) -> None:
    """The fetches after a hint become rare: each pause is about as long as the time since the hint."""
    assert backoff.hint_pause(elapsed_s, jitter) == pytest.approx(pause_s)


@pytest.mark.parametrize(
    ("failures", "jitter", "pause_s"),
    [(1, 0.0, 0.2), (1, 0.5, 0.225), (2, 0.0, 0.4), (3, 0.0, 0.8), (7, 0.5, 14.4), (8, 0.0, 24), (10_000, 0.5, 27)],
)
def test_each_failure_doubles_the_pause(failures: int, jitter: float, pause_s: float) -> None:
    """A short fault of upstream costs a fraction of a second, a long one costs it two requests a minute."""
    assert backoff.failure_pause(failures, jitter) == pytest.approx(pause_s)


@pytest.mark.parametrize(
    ("failures", "jitter", "pause_s"),
    [(1, 0.0, 0.1), (1, 0.5, 0.55), (3, 1.0, 1.0), (4, 0.0, 0.2), (6, 1.0, 8), (7, 0.0, 0.8), (10_000, 0.5, 4.4)],
)
def test_a_lost_bus_is_back_soon(failures: int, jitter: float, pause_s: float) -> None:
    """A broker that restarts has its sidecars back within eight seconds, and not all of them at once."""
    assert backoff.reconnect_pause(failures, jitter) == pytest.approx(pause_s)


@pytest.mark.parametrize(
    ("now", "offset", "jitter", "at"),
    [
        (1000, 0.5, 0.0, 1050),
        (1000, 0.5, 0.5, 1053),
        (1035, 0.5, 0.0, 1050),
        (1036, 0.5, 0.0, 1110),
        (1050, 0.5, 0.0, 1110),
        (1000, 0.0, 0.0, 1020),
        (0, 0.5, 0.0, 30),
    ],
)
def test_polls_stand_at_the_pods_own_offset(now: float, offset: float, jitter: float, at: float) -> None:
    """The next poll is at this pod's offset in the interval, and skips one that would come within a quarter of it."""
    assert backoff.next_poll(now, 60, offset, jitter) == at


def test_a_pod_keeps_its_place() -> None:
    """A pod polls at the same offset after a restart and after an upgrade, and at another one for its other keys."""
    assert backoff.place("shop-0-1", "KEY1") == pytest.approx(0.484929581)
    assert backoff.place("shop-0-1", "KEY2") == pytest.approx(0.354755933)


@pytest.mark.parametrize(
    ("listeners", "jitter", "pause_s"),
    [(0, 1.0, 0), (3, 1.0, 0.006), (1000, 0.5, 1), (10_000, 1.0, 5), (10_000, 0.2, 1)],
)
def test_a_fleet_does_not_fill_an_empty_broker_at_once(listeners: int, jitter: float, pause_s: float) -> None:
    """Of ten thousand pods with the same datafile, the first to write it spares nearly all others. A small fleet does not wait."""
    assert backoff.seed_pause(listeners, jitter) == pytest.approx(pause_s)
