"""What a pod does with a datafile that others share, case by case."""

from dataclasses import replace

import pytest

from datafile_sidecar.core import offers, reconcile
from datafile_sidecar.core.offers import Opinion
from datafile_sidecar.core.patience import Insistence, Patience
from datafile_sidecar.core.reconcile import Offer, State, Trigger, Verdict, Version

HAVE, OLD, NEW = Version(42, "a"), Version(41, "o"), Version(43, "n")
HOLDING = reconcile.keep(State(observed=HAVE, due=False))
PATIENCE = Patience(900, 120)
FLEET_WENT_BACK = Offer(OLD, 1, ("a",), at=100)


@pytest.mark.parametrize(
    ("case", "state", "offer", "opinion"),
    [
        ("nothing on disk", State(), Offer(OLD, 0), Opinion.TAKE),
        ("nothing on disk, a later generation", State(), Offer(OLD, 3), Opinion.TAKE),
        ("newer", HOLDING, Offer(NEW, 0), Opinion.TAKE),
        ("the same", HOLDING, Offer(HAVE, 0), Opinion.IGNORE),
        ("older", HOLDING, Offer(OLD, 0), Opinion.IGNORE),
        ("the same revision, fetched later", HOLDING, Offer(Version(42, "b"), 0), Opinion.TAKE),
        ("newer, of an earlier generation", replace(HOLDING, generation=1), Offer(NEW, 0), Opinion.IGNORE),
        ("newer, but gone back from", replace(HOLDING, left=("n",)), Offer(NEW, 0), Opinion.IGNORE),
        ("a later generation", HOLDING, FLEET_WENT_BACK, Opinion.ASK),
        ("a later generation, newer", HOLDING, Offer(NEW, 1), Opinion.ASK),
        ("a later generation, asked about", replace(HOLDING, offer=FLEET_WENT_BACK), FLEET_WENT_BACK, Opinion.IGNORE),
        ("the same in a later generation", HOLDING, Offer(HAVE, 2), Opinion.JOIN),
    ],
)
def test_what_is_offered_gets_the_right_answer(case: str, state: State, offer: Offer, opinion: Opinion) -> None:
    """News is taken, what is no news is not, and a rollback is never taken on another pod's word."""
    assert offers.weigh(state, offer, fetched=20, have_fetched=10) is opinion, case


def test_the_same_revision_fetched_earlier_is_no_news() -> None:
    """Two pods with different bytes of one revision agree on the later ones."""
    assert offers.weigh(HOLDING, Offer(Version(42, "b"), 0), fetched=10, have_fetched=20) is Opinion.IGNORE


def test_a_rollback_of_the_fleet_is_believed_when_upstream_says_so_once() -> None:
    """No second quarter of an hour: the offer is confirmed by one answer, and what it left is not taken again."""
    state = offers.ask(HOLDING, FLEET_WENT_BACK)
    assert (state.due, state.trigger) == (True, Trigger.BUS)
    assert reconcile.decide(state, OLD, 101, PATIENCE) is Verdict.ROLL_BACK
    state = reconcile.publish(reconcile.begin(state), OLD)
    assert (state.observed, state.generation, state.left, state.offer) == (OLD, 1, ("a",), None)
    assert reconcile.decide(state, HAVE, 102, PATIENCE) is Verdict.REFUSE
    assert offers.weigh(state, Offer(HAVE, 1), fetched=200, have_fetched=100) is Opinion.IGNORE
    assert reconcile.decide(state, NEW, 102, PATIENCE) is Verdict.PUBLISH


def test_a_stale_edge_confirms_no_rollback_and_denies_none() -> None:
    """Upstream still serves what the fleet left: it stays, in its own generation, until upstream serves the other."""
    state = reconcile.keep(reconcile.begin(offers.ask(HOLDING, FLEET_WENT_BACK)))
    assert (state.observed, state.generation, state.offer) == (HAVE, 0, FLEET_WENT_BACK)
    assert reconcile.decide(state, OLD, 500, PATIENCE) is Verdict.ROLL_BACK


def test_what_follows_on_a_rollback_is_of_its_generation() -> None:
    """A pod that missed a rollback, and fetches what came after it, can share that with those that did not."""
    state = reconcile.publish(reconcile.begin(offers.ask(HOLDING, FLEET_WENT_BACK)), NEW)
    assert (state.generation, state.left, state.offer) == (1, ("a",), None)


def test_having_what_follows_on_a_rollback_is_being_in_its_generation() -> None:
    """A pod that missed a rollback and already has what came after it joins as soon as upstream confirms what it has."""
    have_new = State(observed=NEW, due=False)
    state = reconcile.keep(offers.ask(have_new, FLEET_WENT_BACK))
    assert (state.observed, state.generation, state.left, state.offer) == (NEW, 1, ("a",), None)


def test_an_invented_rollback_is_asked_about_once_in_ten_seconds() -> None:
    """Who writes a new one each second gets no storm of fetches out of it."""
    state = reconcile.begin(offers.ask(HOLDING, Offer(OLD, 1, at=100)))
    assert not offers.ask(state, Offer(OLD, 2, at=105)).due
    assert offers.ask(state, Offer(OLD, 2, at=110)).due


def test_an_offer_that_upstream_never_confirms_is_outvoted() -> None:
    """After the patience for a rollback it is not the pod that must be wrong."""
    state = offers.ask(HOLDING, FLEET_WENT_BACK)
    assert not offers.is_outvoted(HOLDING, 5000, 900)
    assert not offers.is_outvoted(state, 999, 900)
    assert offers.is_outvoted(state, 1000, 900)
    assert offers.drop(state).offer is None


def test_taking_fulfils_what_it_fulfils_and_no_more() -> None:
    """A relayed webhook for 43 is done when 43 comes by the bus; one for 44 is not."""
    state = reconcile.announce(reconcile.announce(HOLDING, 43, 1, Trigger.PEER), 44, 2, Trigger.PEER)
    state = offers.take(state, Offer(NEW, 0))
    assert (state.observed, state.target, state.due) == (NEW, 44, True)
    state = offers.take(state, Offer(Version(44, "m"), 0))
    assert (state.target, state.due, state.announced) == (44, False, ())


def test_a_new_pod_still_has_to_hear_of_a_check() -> None:
    """What it took from the bus at start is looked at once, by itself or by a younger check of others."""
    state = offers.take(State(), Offer(HAVE, 3, ("x",)))
    assert (state.observed, state.generation, state.left, state.due) == (HAVE, 3, ("x",), True)


def test_going_back_and_forth_is_each_time_a_generation() -> None:
    """Upstream insists on 41, then on 42 again: both are believed in time, and neither is refused for ever."""
    state = replace(HOLDING, older=Insistence(0, 900))
    assert reconcile.decide(state, OLD, 900, PATIENCE) is Verdict.ROLL_BACK
    state = reconcile.publish(state, OLD)
    assert (state.generation, state.left) == (1, ("a",))
    assert reconcile.decide(state, HAVE, 901, PATIENCE) is Verdict.REFUSE
    for now in range(901, 1801, 60):
        assert reconcile.decide(state, HAVE, now, PATIENCE) is Verdict.REFUSE
        state = reconcile.refuse(state, now, PATIENCE)
    assert reconcile.decide(state, HAVE, 1801, PATIENCE) is Verdict.ROLL_BACK
    state = reconcile.publish(state, HAVE)
    assert (state.observed, state.generation, state.left) == (HAVE, 2, ("o",))
