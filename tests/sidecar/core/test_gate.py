"""What the gate says of a candidate, case by case."""

from dataclasses import replace

import pytest

from datafile_sidecar.core import gate, reconcile
from datafile_sidecar.core.bus_record import Check
from datafile_sidecar.core.gate import AdmissionPolicy, Verdict
from datafile_sidecar.core.state import Candidate, RollbackEvidence, RollbackPolicy, Source, State, Trigger, Version

HAVE, OLD, NEW = Version(42, "a"), Version(41, "o"), Version(43, "n")
HOLDING = reconcile.confirmed(State(published=HAVE, fetched=10, fetch_now=False), now=0)
POLICY = AdmissionPolicy(RollbackPolicy(900, 120))


def on_bus(
    version: Version, generation: int, rolled_back_from: tuple[str, ...] = (), fetched: float | None = 20
) -> Candidate:
    """What another pod shares."""
    return Candidate(version, Source.BUS, fetched, generation, rolled_back_from)


def upstream(version: Version) -> Candidate:
    """What a fetch brings."""
    return Candidate(version, Source.UPSTREAM)


def decide(state: State, version: Version, now: float) -> Verdict:
    """What the gate says of a fetched datafile."""
    return gate.admit(state, upstream(version), now, POLICY)


def fetched(state: State, version: Version) -> State:
    """The state after a fetched datafile was published."""
    return reconcile.published(state, upstream(version), now=0)


def taken(state: State, candidate: Candidate) -> State:
    """The state after a datafile of the bus was published."""
    return reconcile.published(state, candidate, now=0)


def pending(state: State) -> Candidate | None:
    """The candidate that upstream is asked about."""
    return state.pending_rollback.candidate if state.pending_rollback else None


FLEET_WENT_BACK = on_bus(OLD, 1, ("a",))
ASKED = reconcile.held(HOLDING, FLEET_WENT_BACK, 100)


@pytest.mark.parametrize(
    ("case", "state", "candidate", "verdict"),
    [
        ("nothing on disk", State(), on_bus(OLD, 0), Verdict.PUBLISH),
        ("nothing on disk, a later generation", State(), on_bus(OLD, 3), Verdict.PUBLISH),
        ("newer", HOLDING, on_bus(NEW, 0), Verdict.PUBLISH),
        ("the same", HOLDING, on_bus(HAVE, 0), Verdict.UNCHANGED),
        ("older", HOLDING, on_bus(OLD, 0), Verdict.REFUSE),
        ("the same revision, fetched later", HOLDING, on_bus(Version(42, "b"), 0), Verdict.PUBLISH),
        ("newer, of an earlier generation", replace(HOLDING, generation=1), on_bus(NEW, 0), Verdict.REFUSE),
        ("newer, but gone back from", replace(HOLDING, rolled_back_from=("n",)), on_bus(NEW, 0), Verdict.REFUSE),
        ("a later generation", HOLDING, FLEET_WENT_BACK, Verdict.HOLD),
        ("a later generation, newer", HOLDING, on_bus(NEW, 1), Verdict.HOLD),
        ("a later generation, asked about", ASKED, FLEET_WENT_BACK, Verdict.REFUSE),
        ("the same in a later generation", HOLDING, on_bus(HAVE, 2), Verdict.UNCHANGED),
    ],
)
def test_what_is_offered_gets_the_right_answer(case: str, state: State, candidate: Candidate, verdict: Verdict) -> None:
    """News is taken, what is no news is not, and a rollback is never taken on another pod's word."""
    assert gate.admit(state, candidate, 0, POLICY) is verdict, case


@pytest.mark.parametrize(
    ("candidate", "useful"),
    [
        (on_bus(NEW, 0), True),
        (FLEET_WENT_BACK, True),
        (on_bus(HAVE, 2), True),
        (on_bus(HAVE, 0), False),
        (on_bus(OLD, 0), False),
    ],
)
def test_only_a_datafile_that_changes_something_is_read_from_the_bus(candidate: Candidate, useful: bool) -> None:
    """A message that tells what this pod has already costs no transfer of the datafile."""
    assert gate.should_read(HOLDING, candidate, 1000, POLICY) is useful


def test_an_earlier_generation_is_not_joined() -> None:
    """A late message of the same bytes takes a pod back into no earlier generation."""
    state = replace(HOLDING, generation=3)
    assert reconcile.admitted(state, on_bus(HAVE, 1, ("z",)), Verdict.UNCHANGED, 0, POLICY) == state


def test_the_same_revision_fetched_earlier_is_no_news() -> None:
    """Two pods with different bytes of one revision agree on the later ones."""
    assert (
        gate.admit(replace(HOLDING, fetched=20), on_bus(Version(42, "b"), 0, fetched=10), 0, POLICY) is Verdict.REFUSE
    )


def test_a_rollback_of_the_fleet_is_believed_when_upstream_says_so_once() -> None:
    """No second quarter of an hour: the offer is confirmed by one answer, and what it left is not taken again."""
    state = reconcile.held(HOLDING, FLEET_WENT_BACK, 100)
    assert (state.fetch_now, state.trigger) == (True, Trigger.BUS)
    assert decide(state, OLD, 101) is Verdict.ROLL_BACK
    state = fetched(reconcile.begin_fetch(state), OLD)
    assert (state.published, state.generation, state.rolled_back_from, state.pending_rollback) == (OLD, 1, ("a",), None)
    assert decide(state, HAVE, 102) is Verdict.REFUSE
    assert gate.admit(state, on_bus(HAVE, 1, fetched=200), 0, POLICY) is Verdict.REFUSE
    assert decide(state, NEW, 102) is Verdict.PUBLISH


def test_a_stale_edge_confirms_no_rollback_and_denies_none() -> None:
    """Upstream still serves what the fleet left: it stays, in its own generation, until upstream serves the other."""
    state = reconcile.confirmed(reconcile.begin_fetch(reconcile.held(HOLDING, FLEET_WENT_BACK, 100)), now=101)
    assert (state.published, state.generation, pending(state)) == (HAVE, 0, FLEET_WENT_BACK)
    assert decide(state, OLD, 500) is Verdict.ROLL_BACK


def test_what_follows_on_a_rollback_is_of_its_generation() -> None:
    """A pod that missed a rollback, and fetches what came after it, can share that with those that did not."""
    state = fetched(reconcile.begin_fetch(reconcile.held(HOLDING, FLEET_WENT_BACK, 100)), NEW)
    assert (state.generation, state.rolled_back_from, state.pending_rollback) == (1, ("a",), None)


def test_having_what_follows_on_a_rollback_is_being_in_its_generation() -> None:
    """A pod that missed a rollback and already has what came after it joins as soon as upstream confirms what it has."""
    have_new = State(published=NEW, fetch_now=False)
    state = reconcile.confirmed(reconcile.held(have_new, FLEET_WENT_BACK, 100), now=101)
    assert (state.published, state.generation, state.rolled_back_from, state.pending_rollback) == (NEW, 1, ("a",), None)


def test_an_invented_rollback_is_asked_about_once_in_ten_seconds() -> None:
    """Who writes a new one each second gets no storm of fetches out of it."""
    state = reconcile.begin_fetch(reconcile.held(HOLDING, on_bus(OLD, 1), 100))
    assert not reconcile.held(state, on_bus(OLD, 2), 105).fetch_now
    assert reconcile.held(state, on_bus(OLD, 2), 110).fetch_now


def test_an_offer_that_upstream_never_confirms_is_outvoted() -> None:
    """After the patience for a rollback it is not the pod that must be wrong."""
    state = reconcile.held(HOLDING, FLEET_WENT_BACK, 100)
    assert not reconcile.is_outvoted(HOLDING, 5000, POLICY.rollback)
    assert not reconcile.is_outvoted(state, 999, POLICY.rollback)
    assert reconcile.is_outvoted(state, 1000, POLICY.rollback)
    assert reconcile.outvoted(state).pending_rollback is None


def test_taking_fulfils_what_it_fulfils_and_no_more() -> None:
    """A relayed webhook for 43 is done when 43 comes by the bus; one for 44 is not."""
    state = reconcile.announce(reconcile.announce(HOLDING, 43, 1, Trigger.PEER), 44, 2, Trigger.PEER)
    state = taken(state, on_bus(NEW, 0))
    assert (state.published, state.target, state.fetch_now) == (NEW, 44, True)
    state = taken(state, on_bus(Version(44, "m"), 0))
    assert (state.target, state.fetch_now, state.announced) == (44, False, ())


def test_a_new_pod_still_has_to_hear_of_a_check() -> None:
    """What it took from the bus at start is looked at once, by itself or by a younger check of others."""
    state = taken(State(), on_bus(HAVE, 3, ("x",)))
    assert (state.published, state.generation, state.rolled_back_from, state.fetch_now) == (HAVE, 3, ("x",), True)


def test_going_back_and_forth_is_each_time_a_generation() -> None:
    """Upstream insists on 41, then on 42 again: both are believed in time, and neither is refused for ever."""
    state = replace(HOLDING, rollback_evidence=(RollbackEvidence(OLD, 0, 900),))
    assert decide(state, OLD, 900) is Verdict.ROLL_BACK
    state = fetched(state, OLD)
    assert (state.generation, state.rolled_back_from) == (1, ("a",))
    assert decide(state, HAVE, 901) is Verdict.REFUSE
    for now in range(901, 1801, 60):
        assert decide(state, HAVE, now) is Verdict.REFUSE
        state = reconcile.refused(state, HAVE, now, POLICY.rollback)
    assert decide(state, HAVE, 1801) is Verdict.ROLL_BACK
    state = fetched(state, HAVE)
    assert (state.published, state.generation, state.rolled_back_from) == (HAVE, 2, ("o",))


def test_of_two_datafiles_without_a_time_the_published_one_stays() -> None:
    """Two pods that start with different bootstrap files of one revision don't replace each other's for ever."""
    assert gate.admit(replace(HOLDING, fetched=None), on_bus(Version(42, "b"), 0, fetched=None), 0, POLICY) is (
        Verdict.REFUSE
    )


def test_a_message_of_an_earlier_generation_is_not_read() -> None:
    """A pod that is late to hear of a rollback makes no other pod read the datafile that it still has."""
    state = replace(HOLDING, generation=3)
    assert not gate.should_read(state, on_bus(HAVE, 2), 1000, POLICY)
    assert not gate.should_read(state, on_bus(NEW, 2), 1000, POLICY)


@pytest.mark.parametrize(
    ("case", "source", "published", "verdict"),
    [
        ("nothing on disk", Source.BOOTSTRAP, None, Verdict.PUBLISH),
        ("a bootstrap file never replaces a datafile", Source.BOOTSTRAP, HAVE, Verdict.REFUSE),
        ("upstream's does", Source.UPSTREAM, HAVE, Verdict.PUBLISH),
    ],
)
def test_a_bootstrap_file_only_fills_a_gap(
    case: str, source: Source, published: Version | None, verdict: Verdict
) -> None:
    """The file that the image brought is used only while there is nothing better, whatever its revision is."""
    assert gate.admit(State(published=published), Candidate(NEW, source), 0, POLICY) is verdict, case


def test_upstream_confirms_only_the_rollback_that_the_bus_told_of() -> None:
    """While one rollback is pending, upstream has to insist on any other older revision as long as ever."""
    assert decide(ASKED, Version(40, "p"), 101) is Verdict.REFUSE


@pytest.mark.parametrize(
    ("candidate", "verdict"),
    [(on_bus(OLD, 2), Verdict.HOLD), (on_bus(Version(41, "q"), 1), Verdict.HOLD), (FLEET_WENT_BACK, Verdict.REFUSE)],
)
def test_a_pending_rollback_is_asked_about_once(candidate: Candidate, verdict: Verdict) -> None:
    """Another rollback, or the same one of a later generation, is asked about too; the pending one is not asked about twice."""
    assert gate.admit(ASKED, candidate, 100, POLICY) is verdict


@pytest.mark.parametrize(
    ("version", "older"),
    [(OLD, True), (HAVE, False), (Version(42, "b"), False), (NEW, False), (Version(43, "r"), True)],
)
def test_what_counts_as_older(version: Version, older: bool) -> None:
    """A lower revision is older, and so is any that a rollback replaced; the published one never is."""
    assert gate.is_older(replace(HOLDING, rolled_back_from=("r", "a")), version) is older
    assert not gate.is_older(State(rolled_back_from=("r",)), version)


@pytest.mark.parametrize(
    ("case", "sha256", "at", "last_check", "accepted"),
    [
        ("younger than ours", "a", 990, 980, True),
        ("of this moment", "a", 1000, 980, True),
        ("we have none", "a", 990, None, True),
        ("as old as ours", "a", 980, 980, False),
        ("older than ours", "a", 970, 980, False),
        ("as old as is allowed", "a", 940, 900, False),
        ("just young enough", "a", 940.1, 900, True),
        ("of the future", "a", 1000.1, 980, False),
        ("of other bytes", "b", 990, 980, False),
        ("of yet other bytes", "0", 990, 980, False),
    ],
)
def test_another_pods_check_stands_for_ours_while_it_is_fresh(
    case: str, sha256: str, at: float, last_check: float | None, accepted: bool
) -> None:
    """One pod's poll confirms the datafile for the whole fleet, unless it is too old, of other bytes, or from a wrong clock."""
    check = Check(at=at, sha256=sha256)
    assert gate.accepts_check(HOLDING, check, last_check, 1000, 60, most=2) is accepted, case
    assert not gate.accepts_check(State(), check, last_check, 1000, 60, most=2)


def test_checks_of_one_pod_stand_for_ours_only_a_few_times_in_a_row() -> None:
    """Its view of upstream may be stale: then this pod asks for itself."""
    state = HOLDING
    check, other = (Check(at=990, sha256="a", by=pod) for pod in ("pod-1", "pod-2"))
    for expected in (True, True, False):
        assert gate.accepts_check(state, check, 980, 1000, 60, most=2) is expected
        assert gate.accepts_check(state, other, 980, 1000, 60, most=2)
        state = reconcile.spared(state, "pod-1")
    assert gate.accepts_check(reconcile.begin_fetch(state), check, 980, 1000, 60, most=2)
