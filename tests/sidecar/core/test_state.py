"""What counts as insisting, and what does not."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

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

POLICY = RollbackPolicy.of(900, poll_interval_s=60)
PAUSES = st.lists(st.floats(0, 5000), min_size=1, max_size=60)


def believed_at(pauses: list[float], policy: RollbackPolicy) -> int | None:
    """After how many answers, so far apart, what they say is believed; None where it never is."""
    said = RollbackEvidence(Version(41, "x"), 0.0)
    for number, now in enumerate(itertools.accumulate(pauses), 2):
        if said.is_enough(now, policy):
            return number
        said = said.again(now, policy)
    return None


def test_polls_that_all_say_so_are_believed_when_the_time_has_come() -> None:
    """A restored project needs the quarter of an hour that was promised, no more."""
    assert believed_at([60.0] * 20, POLICY) == 16


def test_an_outage_does_not_insist() -> None:
    """Nine answers at least, whatever lies between them: two stale ones around an outage of hours are nothing."""
    assert believed_at([9999.0] * 20, POLICY) == 9


def test_rare_polls_count_in_full() -> None:
    """Who polls once an hour has the older revision after the next hour; with polling off, two minutes are all that counts."""
    assert believed_at([3600.0], RollbackPolicy.of(900, poll_interval_s=3600)) == 2
    assert RollbackPolicy.of(900, poll_interval_s=0).max_gap_s == 120


@given(PAUSES)
def test_it_takes_the_time_and_the_answers(pauses: list[float]) -> None:
    """However patchy upstream is: never believed too early, never by too few, always at last."""
    found = believed_at(pauses, POLICY)
    if found:
        assert sum(pauses[: found - 1]) >= 900
        assert found >= 9
    else:
        assert sum(min(pause, 120) for pause in pauses) < 900.001


@pytest.mark.parametrize(("poll_interval_s", "max_gap_s"), [(0, 120), (60, 120), (61, 122), (3600, 7200)])
def test_two_poll_intervals_count_between_two_answers(poll_interval_s: float, max_gap_s: float) -> None:
    """One missed poll does not make a rollback take longer."""
    assert RollbackPolicy.of(900, poll_interval_s) == RollbackPolicy(900, max_gap_s)


HAVE = Version(42, "a")
FORTY_FOUR, FORTY_THREE = Announcement(44, 0, Trigger.PEER), Announcement(43, 0, Trigger.WEBHOOK)
PENDING = PendingRollback(Candidate(Version(41, "o"), Source.BUS, 1, 1), 0)


@pytest.mark.parametrize(
    ("candidate", "fetched"),
    [
        (Candidate(HAVE, Source.UPSTREAM), 7),
        (Candidate(HAVE, Source.UPSTREAM, fetched=5), 5),
        (Candidate(HAVE, Source.UPSTREAM, fetched=0.0), 0.0),
        (Candidate(HAVE, Source.BUS), 7),
        (Candidate(HAVE, Source.BUS, fetched=5), 5),
        (Candidate(HAVE, Source.BOOTSTRAP), None),
    ],
)
def test_a_datafile_is_as_old_as_its_fetch(candidate: Candidate, fetched: float | None) -> None:
    """The age of a datafile counts from its fetch, here or in another pod; a bootstrap file has none."""
    assert candidate.dated(7).fetched == fetched


def test_a_new_key_knows_nothing() -> None:
    """A key begins without a datafile or an error, and is fetched at once; nothing counts as checked, announced or overdue."""
    state = State()
    assert (state.revision, state.target, state.error, state.overdue) == (None, None, None, 0)
    assert (state.generation, state.write_failures) == (0, 0)
    assert (state.fetch_now, state.checked, state.webhook_seen) == (True, False, False)
    assert (state.timers.poll_at, state.timers.chase_at, state.timers.retry_at) == (float("inf"),) * 3
    assert (state.timers.not_before, state.confirmed_at) == (0.0, float("-inf"))


@pytest.mark.parametrize(
    ("state", "revision", "target"),
    [
        (State(published=HAVE), 42, 42),
        (State(published=Version(0, "a")), 0, 0),
        (State(published=HAVE, announced=(FORTY_FOUR, FORTY_THREE)), 42, 44),
        (State(announced=(FORTY_THREE,)), None, 43),
    ],
)
def test_the_target_is_the_highest_announced(state: State, revision: int | None, target: int | None) -> None:
    """`/status` shows what is on the volume, and what should be."""
    assert (state.revision, state.target) == (revision, target)


NOT_SERVED = "revision 44 was announced, and upstream did not serve it within 10 minutes"


@pytest.mark.parametrize(
    ("state", "problem", "error"),
    [
        (State(), "no datafile has been published yet", None),
        (State(last_error="down"), "down", "down"),
        (State(published=HAVE), None, None),
        (State(published=HAVE, last_error="down"), None, "down"),
        (State(published=HAVE, overdue=44), None, NOT_SERVED),
        (State(published=HAVE, overdue=44, last_error="down"), None, "down"),
        (State(overdue=1), "no datafile has been published yet", NOT_SERVED.replace("44", "1")),
    ],
)
def test_what_is_wrong_is_said(state: State, problem: str | None, error: str | None) -> None:
    """A reader of `/status` learns why there is no datafile, or why the newest one is missing."""
    assert (state.problem, state.error) == (problem, error)


@pytest.mark.parametrize(
    ("state", "trigger"),
    [
        (State(), Trigger.STARTUP),
        (State(checked=True), Trigger.POLL),
        (State(announced=(FORTY_FOUR, FORTY_THREE), hint=Hint(0, Trigger.WEBHOOK)), Trigger.PEER),
        (State(hint=Hint(0, Trigger.WEBHOOK), pending_rollback=PENDING), Trigger.WEBHOOK),
        (State(pending_rollback=PENDING), Trigger.BUS),
        (State(pending_rollback=PENDING, fetch_now=False, checked=True), Trigger.POLL),
    ],
)
def test_a_fetch_is_counted_under_its_cause(state: State, trigger: Trigger) -> None:
    """The metrics tell fetches for webhooks, hints and rollbacks of the fleet from polls."""
    assert state.trigger is trigger


def test_one_answer_alone_has_not_insisted() -> None:
    """The time that upstream must insist counts from its first older answer."""
    assert not RollbackEvidence(Version(41, "x"), 10).is_enough(69.9, RollbackPolicy(60, 120))
    assert RollbackEvidence(Version(41, "x"), 10).is_enough(70, RollbackPolicy(60, 120))


def test_a_fetched_datafile_is_of_no_generation_of_its_own() -> None:
    """Only what another pod shares brings a generation and the digests of rollbacks along."""
    assert Candidate(HAVE, Source.UPSTREAM) == Candidate(HAVE, Source.UPSTREAM, None, 0, ())
