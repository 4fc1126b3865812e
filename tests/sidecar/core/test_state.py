"""What counts as insisting, and what does not."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from datafile_sidecar.core.state import RollbackEvidence, RollbackPolicy, Version

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
