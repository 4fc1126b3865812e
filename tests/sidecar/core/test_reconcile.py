"""What is known of a key and what follows from it, case by case; `test_syncer_machine.py` tries the orders that nobody lists."""

import math
from dataclasses import replace

import pytest

from datafile_sidecar.core import backoff, gate, reconcile
from datafile_sidecar.core.gate import AdmissionPolicy, Verdict
from datafile_sidecar.core.state import (
    Announcement,
    Candidate,
    PendingRollback,
    RollbackEvidence,
    RollbackPolicy,
    Source,
    State,
    Trigger,
    Version,
)

HAVE = Version(42, "a")
OLD = Version(41, "x")
NEW = State()
POLICY = AdmissionPolicy(RollbackPolicy(insist_s=900, max_gap_s=120))
INSISTED = (RollbackEvidence(Version(41, "x"), at=900, lasted_s=840),)
HOLDING = reconcile.confirmed(State(published=HAVE, fetch_now=False), now=0)
POLL, WEBHOOK, PEER, STARTUP = Trigger.POLL, Trigger.WEBHOOK, Trigger.PEER, Trigger.STARTUP


def served_by_upstream(version: Version) -> Candidate:
    """What a fetch brings."""
    return Candidate(version, Source.UPSTREAM, fetched=0.0)


def published(state: State, version: Version) -> State:
    """The state after this was fetched and published."""
    return reconcile.published(state, served_by_upstream(version), now=0)


@pytest.mark.parametrize(
    ("case", "state", "served", "now", "verdict"),
    [
        ("nothing on disk", NEW, Version(1, "x"), 0, Verdict.PUBLISH),
        ("newer", HOLDING, Version(43, "x"), 0, Verdict.PUBLISH),
        ("newer as a number, not as text", State(published=Version(99, "a")), Version(100, "x"), 0, Verdict.PUBLISH),
        ("the same bytes", HOLDING, HAVE, 0, Verdict.UNCHANGED),
        ("the same revision, other bytes", HOLDING, Version(42, "b"), 0, Verdict.PUBLISH),
        ("older, for the first time", HOLDING, Version(41, "x"), 0, Verdict.REFUSE),
        ("older, for long", replace(HOLDING, rollback_evidence=INSISTED), Version(41, "x"), 959, Verdict.REFUSE),
        (
            "older, for long enough",
            replace(HOLDING, rollback_evidence=INSISTED),
            Version(41, "x"),
            960,
            Verdict.ROLL_BACK,
        ),
        (
            "older, long ago",
            replace(HOLDING, rollback_evidence=(RollbackEvidence(Version(41, "x"), 0),)),
            Version(41, "x"),
            9999,
            Verdict.REFUSE,
        ),
        (
            "newer, though it insisted on older",
            replace(HOLDING, rollback_evidence=INSISTED),
            Version(43, "x"),
            960,
            Verdict.PUBLISH,
        ),
    ],
)
def test_what_upstream_serves_gets_the_right_verdict(
    case: str, state: State, served: Version, now: float, verdict: Verdict
) -> None:
    """Newer is published, the same kept, older refused until upstream has insisted on it."""
    assert gate.admit(state, served_by_upstream(served), now, POLICY) is verdict, case


def test_even_with_no_patience_one_older_answer_is_not_believed() -> None:
    """A single stale edge rolls nothing back, whatever the setting."""
    assert (
        gate.admit(HOLDING, served_by_upstream(Version(41, "x")), 1000, AdmissionPolicy(RollbackPolicy(0, 120)))
        is Verdict.REFUSE
    )


def test_an_announced_revision_is_wanted_until_it_is_on_disk() -> None:
    """The target rises with the webhook, and the publication fulfils it."""
    state = reconcile.announce(HOLDING, 43, 10, WEBHOOK)
    assert (state.target, state.fetch_now, state.trigger) == (43, True, WEBHOOK)
    assert reconcile.fulfilled(state, 43) == Announcement(43, 10, WEBHOOK)
    state = published(reconcile.begin_fetch(state), Version(43, "x"))
    assert (state.target, state.fetch_now, state.announced, state.trigger) == (43, False, (), POLL)


def test_a_withdrawn_revision_is_waited_for_no_longer() -> None:
    """What was announced by mistake sets no target and is no error any more; all else stays wanted."""
    state = reconcile.announce(reconcile.announce(HOLDING, 43, 10, WEBHOOK), 9000, 11, WEBHOOK)
    assert reconcile.withdrawn(state, 9001) == state
    assert reconcile.withdrawn(state, 9000) == replace(state, announced=state.announced[1:])
    overdue, _ = reconcile.expire(state, 11 + backoff.CHASE_FOR_S)
    assert overdue.error
    assert reconcile.withdrawn(overdue, 43).error
    assert not reconcile.withdrawn(overdue, 9000).error


@pytest.mark.parametrize("revision", [41, 42])
def test_an_announcement_of_nothing_newer_changes_nothing(revision: int) -> None:
    """Late and doubled webhooks wake nobody, but the key counts as one that gets webhooks."""
    assert reconcile.announce(HOLDING, revision, 10, WEBHOOK) == replace(HOLDING, webhook_seen=True)


def test_a_repeated_announcement_does_not_restart_the_chase() -> None:
    """The same webhook again, while its revision is chased, asks for no other fetch: a replayed webhook is no lever."""
    chasing = reconcile.begin_fetch(reconcile.announce(HOLDING, 43, 10, WEBHOOK))
    assert reconcile.announce(chasing, 43, 99, WEBHOOK) == chasing


def test_the_target_is_the_highest_whatever_the_order() -> None:
    """Webhooks that overtake each other lower no target."""
    state = reconcile.announce(reconcile.announce(HOLDING, 45, 1, WEBHOOK), 43, 2, PEER)
    assert state.target == 45
    after_43 = published(reconcile.begin_fetch(state), Version(43, "x"))
    assert (after_43.target, [a.revision for a in after_43.announced]) == (45, [45])


def test_news_during_a_fetch_outlives_it() -> None:
    """What was announced while a fetch ran is fetched at once after it, unless that fetch brought it."""
    fetching = reconcile.begin_fetch(reconcile.announce(HOLDING, 43, 1, WEBHOOK))
    told = reconcile.announce(fetching, 44, 2, WEBHOOK)
    assert published(told, Version(43, "x")).fetch_now
    assert not published(told, Version(44, "x")).fetch_now


def test_a_nudge_during_a_fetch_outlives_it() -> None:
    """The fetch may have been answered before the change that the nudge is about."""
    fetching = reconcile.begin_fetch(reconcile.hint(HOLDING, 1, WEBHOOK))
    assert published(fetching, Version(43, "x")).hint is None
    told = published(reconcile.hint(fetching, 2, WEBHOOK), Version(43, "x"))
    assert told.fetch_now
    assert told.hint is not None


def test_a_nudge_raises_no_target() -> None:
    """Revisions of different environments don't compare."""
    state = reconcile.hint(HOLDING, 1, WEBHOOK)
    assert (state.target, state.fetch_now, state.trigger) == (42, True, WEBHOOK)


def test_what_is_not_served_in_time_is_overdue_and_wanted_no_more() -> None:
    """A revision that never comes lets the target fall to what is there, or to what else was announced."""
    state = reconcile.announce(reconcile.announce(HOLDING, 999, 0, WEBHOOK), 43, 300, WEBHOOK)
    state, overdue = reconcile.expire(state, backoff.CHASE_FOR_S - 1)
    assert overdue == ()
    state, overdue = reconcile.expire(state, backoff.CHASE_FOR_S)
    assert [a.revision for a in overdue] == [999]
    assert state.target == 43
    state, overdue = reconcile.expire(state, 300 + backoff.CHASE_FOR_S)
    assert [a.revision for a in overdue] == [43]
    assert (state.target, state.overdue) == (42, 999)


def test_a_nudge_fades_after_a_minute() -> None:
    """An event that was not ours costs a few fetches, no more."""
    state, _ = reconcile.expire(reconcile.hint(HOLDING, 0, WEBHOOK), backoff.HINT_FOR_S)
    assert state.hint is None


def test_upstream_insists_only_without_a_break() -> None:
    """One answer that is not older starts the patience anew."""
    state = reconcile.refused(reconcile.refused(HOLDING, OLD, 10, POLICY.rollback), OLD, 20, POLICY.rollback)
    assert state.rollback_evidence == (RollbackEvidence(OLD, 20, 10),)
    assert reconcile.confirmed(state, now=30).rollback_evidence == ()


def test_going_back_starts_a_new_generation() -> None:
    """Readers and other pods can tell a believed rollback from a late message."""
    back = published(replace(HOLDING, rollback_evidence=INSISTED), Version(41, "x"))
    assert (back.published, back.generation, back.rollback_evidence) == (Version(41, "x"), 1, ())
    assert published(back, Version(44, "y")).generation == 1


def test_a_flood_of_announcements_is_bounded() -> None:
    """A signed flood costs no memory, and the highest revisions stay wanted."""
    state = HOLDING
    for revision in range(43, 2000):
        state = reconcile.announce(state, revision, revision, WEBHOOK)
    assert (len(state.announced), state.target) == (64, 1999)


@pytest.mark.parametrize(
    ("case", "state", "trigger", "missed"),
    [
        ("a poll of a key with webhooks", replace(HOLDING, webhook_seen=True), POLL, True),
        ("a key that never got one", HOLDING, POLL, False),
        ("a webhook announced it", replace(HOLDING, webhook_seen=True), WEBHOOK, False),
        ("the first file of all", replace(NEW, webhook_seen=True), POLL, False),
        ("announced, but overdue", replace(HOLDING, webhook_seen=True, overdue=43), POLL, False),
    ],
)
def test_a_missed_webhook_is_one_that_should_have_come(case: str, state: State, trigger: Trigger, missed: bool) -> None:
    """Only a revision that a poll found first counts, and only for a key that webhooks come for."""
    assert reconcile.is_missed(state, 43, trigger) is missed, case


def test_the_reason_of_a_fetch_is_the_news_that_caused_it() -> None:
    """`trigger` says startup until upstream answered once, then webhook, peer or poll."""
    assert NEW.trigger is STARTUP
    assert reconcile.loaded(NEW, HAVE, 0, (), None).trigger is STARTUP
    assert reconcile.announce(NEW, 43, 0, PEER).trigger is PEER
    assert HOLDING.trigger is POLL


def test_a_lost_file_is_fetched_at_once() -> None:
    """Somebody deleted the published file: there is nothing to compare with, and no time to lose."""
    state = reconcile.missing(HOLDING, "it is gone")
    assert (state.on_volume, state.fetch_now) == (None, True)
    assert gate.admit(state, served_by_upstream(HAVE), 0, POLICY) is Verdict.PUBLISH
    assert gate.admit(state, served_by_upstream(Version(41, "x")), 0, POLICY) is Verdict.REFUSE


def test_what_was_kept_fulfils_what_was_announced_meanwhile() -> None:
    """A webhook that comes while the kept file is being read, and names that very revision, is not chased for ten minutes."""
    told = reconcile.announce(reconcile.announce(NEW, 42, 1, WEBHOOK), 44, 1, WEBHOOK)
    state = reconcile.loaded(told, HAVE, 3, (), None)
    assert ([a.revision for a in state.announced], state.generation) == ([44], 3)


def test_a_chase_ends_after_ten_minutes_and_a_hint_after_one() -> None:
    """What upstream never serves costs fetches for ten minutes, and an event that was not ours for one."""
    state = reconcile.hint(reconcile.announce(HOLDING, 43, 100, WEBHOOK), 100, WEBHOOK)
    assert reconcile.expire(state, 159.9) == (state, ())
    without_hint = replace(state, hint=None)
    assert reconcile.expire(state, 160) == (without_hint, ())
    assert reconcile.expire(state, 161) == (without_hint, ())
    assert reconcile.expire(without_hint, 699.9) == (without_hint, ())
    assert reconcile.expire(without_hint, 700) == (
        replace(without_hint, announced=(), overdue=43),
        (Announcement(43, 100, WEBHOOK),),
    )


def test_a_lower_revision_that_is_overdue_hides_no_higher_one() -> None:
    """`/status` names the highest revision that never came, in whatever order they were announced."""
    state, _ = reconcile.expire(replace(HOLDING, overdue=50, announced=(Announcement(43, 0, WEBHOOK),)), 600)
    assert state.overdue == 50
    both = (Announcement(52, 0, WEBHOOK), Announcement(51, 0, WEBHOOK))
    state, overdue = reconcile.expire(replace(state, announced=both), 600)
    assert (state.overdue, overdue) == (52, both)


@pytest.mark.parametrize(("revision", "fulfilled"), [(42, None), (43, 43), (44, 43), (45, 45), (46, 45)])
def test_a_publication_fulfils_the_highest_announcement_up_to_it(revision: int, fulfilled: int | None) -> None:
    """The measured time from webhook to volume is that of the announcement that the datafile answers."""
    state = replace(HOLDING, announced=(Announcement(45, 2, WEBHOOK), Announcement(43, 1, WEBHOOK)))
    announcement = reconcile.fulfilled(state, revision)
    assert (announcement.revision if announcement else None) == fulfilled


BUS_SAME = Candidate(HAVE, Source.BUS, 20, 2, ("z",))
BUS_OLD = Candidate(OLD, Source.BUS, 20, 1, ("a",))


@pytest.mark.parametrize(
    ("case", "candidate", "verdict", "expected"),
    [
        (
            "new",
            served_by_upstream(Version(43, "n")),
            Verdict.PUBLISH,
            reconcile.published(HOLDING, served_by_upstream(Version(43, "n")), 5),
        ),
        (
            "an older one",
            served_by_upstream(OLD),
            Verdict.ROLL_BACK,
            reconcile.published(HOLDING, served_by_upstream(OLD), 5),
        ),
        ("the same", served_by_upstream(HAVE), Verdict.UNCHANGED, reconcile.confirmed(HOLDING, 5)),
        ("the same, by the bus", replace(BUS_SAME, generation=0, rolled_back_from=()), Verdict.UNCHANGED, HOLDING),
        ("the same in a later generation", BUS_SAME, Verdict.UNCHANGED, reconcile.joined(HOLDING, BUS_SAME)),
        ("refused", served_by_upstream(OLD), Verdict.REFUSE, reconcile.refused(HOLDING, OLD, 5, POLICY.rollback)),
        ("refused, by the bus", BUS_OLD, Verdict.REFUSE, HOLDING),
        ("a rollback", BUS_OLD, Verdict.HOLD, reconcile.held(HOLDING, BUS_OLD, 5)),
    ],
)
def test_each_verdict_is_noted(case: str, candidate: Candidate, verdict: Verdict, expected: State) -> None:
    """What the gate decides shows in `/status`; what another pod sends counts for no answer of upstream."""
    assert reconcile.admitted(HOLDING, candidate, verdict, 5, POLICY) == expected, case


def test_a_failed_fetch_is_tried_again() -> None:
    """The reason shows in `/status` until the next good answer, and the retry waits only for a source."""
    state = reconcile.fetch_failed(HOLDING, "down", 10)
    assert (state.last_error, state.timers.retry_at, state.published) == ("down", 10, HAVE)
    assert reconcile.begin_fetch(state).timers.retry_at == math.inf
    state = reconcile.confirmed(replace(state, checked=False), 20)
    assert (state.last_error, state.checked, state.confirmed_at) == (None, True, 20)


def test_an_older_answer_is_explained() -> None:
    """`/status` says which revision upstream serves and which one stays, from the first such answer on."""
    state = reconcile.refused(HOLDING, OLD, 10, POLICY.rollback)
    assert state.last_error == "upstream serves revision 41, older than 42, which is published"
    assert state.rollback_evidence == (RollbackEvidence(OLD, 10),)


def test_failed_writes_are_counted_until_one_goes_well() -> None:
    """The reason and the next try are known, and a good write ends the count."""
    state = reconcile.write_failed(reconcile.write_failed(HOLDING, "full", 10), "still full", 20)
    assert (state.write_failures, state.last_error, state.timers.retry_at) == (2, "still full", 20)
    assert reconcile.written(state).write_failures == 0


def test_a_kept_file_that_is_unusable_is_explained() -> None:
    """`/status` says why the file that an earlier sidecar left is not used."""
    assert reconcile.unusable(NEW, "empty").last_error == "the file that was kept on the volume can't be used: empty"


def test_a_bootstrap_file_confirms_nothing() -> None:
    """After a start from the bootstrap file upstream is still asked at once, in the same generation."""
    state = reconcile.published(replace(NEW, generation=2), Candidate(HAVE, Source.BOOTSTRAP), now=5)
    assert state == replace(NEW, generation=2, published=HAVE, fetched=None)


def test_a_publication_ends_what_it_answers() -> None:
    """A new datafile of upstream clears the error, the overdue revision and the evidence for a rollback."""
    before = replace(
        HOLDING, overdue=44, last_error="down", rollback_evidence=INSISTED, checked=False, webhook_seen=True
    )
    state = reconcile.published(before, Candidate(Version(43, "n"), Source.UPSTREAM, fetched=7), now=5)
    assert state == replace(HOLDING, published=Version(43, "n"), fetched=7, confirmed_at=5, webhook_seen=True)


@pytest.mark.parametrize("checked", [False, True])
def test_what_the_bus_brings_leaves_the_first_check_open(checked: bool) -> None:
    """A pod that starts with another pod's datafile asks upstream once itself; later on it does not."""
    state = reconcile.published(replace(HOLDING, checked=checked, fetch_now=True), BUS_SAME, now=5)
    assert (state.checked, state.fetch_now) == (checked, not checked)
    assert not reconcile.published(replace(state, fetch_now=False), BUS_SAME, now=5).fetch_now


def test_the_bus_fulfils_a_hint_only_when_no_fetch_is_due() -> None:
    """A hint asks for an answer of upstream: a datafile of the bus does not spare that."""
    state = reconcile.published(reconcile.hint(HOLDING, 1, WEBHOOK), BUS_SAME, now=5)
    assert (state.hint is not None, state.fetch_now) == (True, True)
    assert reconcile.published(reconcile.begin_fetch(state), BUS_SAME, now=5).hint is None


def test_a_pending_rollback_is_asked_about_again_after_ten_seconds() -> None:
    """Upstream is asked at most once in ten seconds, and the newest message counts."""
    state = reconcile.begin_fetch(reconcile.held(HOLDING, BUS_OLD, 100))
    again = reconcile.held(state, BUS_SAME, 109.9)
    assert (again.pending_rollback, again.fetch_now) == (PendingRollback(BUS_SAME, 109.9), False)
    assert again.timers.retry_at == 109.9 + reconcile.HOLD_AGAIN_S
    assert reconcile.held(state, BUS_SAME, 110).fetch_now
    assert reconcile.held(replace(state, fetch_now=True), BUS_SAME, 101).fetch_now


def test_a_pending_rollback_lasts_a_minute_at_least() -> None:
    """A fleet that needs no patience for rollbacks still gives upstream's edges a minute to agree."""
    state = reconcile.held(HOLDING, BUS_OLD, 100)
    assert not reconcile.is_outvoted(state, 159.9, RollbackPolicy(0, 120))
    assert reconcile.is_outvoted(state, 160, RollbackPolicy(0, 120))
    assert not reconcile.is_outvoted(state, 160, RollbackPolicy(61, 120))


def test_the_last_four_rollbacks_are_remembered() -> None:
    """A datafile that a rollback replaced does not come back; what is published now is never among those."""
    assert reconcile.merged(("a", "b"), ("b", "c"), Version(1, "a")) == ("b", "c")
    assert reconcile.merged(("a", "b", "c"), ("d", "e"), Version(1, "x")) == ("b", "c", "d", "e")


@pytest.mark.parametrize(
    ("case", "served", "generation", "rolled_back_from"),
    [
        ("that candidate", OLD, 5, ("a",)),
        ("what came after it", Version(43, "n"), 5, ("a",)),
        ("an older one, which is a rollback of its own", Version(40, "p"), 2, ("a",)),
        ("other bytes of its revision, the same", Version(41, "q"), 2, ("a",)),
    ],
)
def test_upstream_settles_a_pending_rollback(
    case: str, served: Version, generation: int, rolled_back_from: tuple[str, ...]
) -> None:
    """Pods that hear of a rollback by the bus and by upstream end in the same generation."""
    state = reconcile.held(replace(HOLDING, generation=1), replace(BUS_OLD, generation=5), 100)
    state = published(state, served)
    assert (state.published, state.generation, state.rolled_back_from) == (served, generation, rolled_back_from), case


def test_what_a_rollback_replaced_does_not_settle_it() -> None:
    """A stale edge that still serves the replaced revision moves a pod into no later generation."""
    pending = replace(BUS_OLD, rolled_back_from=("a", "n"))
    state = published(reconcile.held(HOLDING, pending, 100), Version(43, "n"))
    assert (state.generation, state.pending_rollback) == (0, PendingRollback(pending, 100))
