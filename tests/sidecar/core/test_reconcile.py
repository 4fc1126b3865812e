"""What is known of a key and what follows from it, case by case; `test_syncer_machine.py` tries the orders that nobody lists."""

from dataclasses import replace

import pytest

from datafile_sidecar.core import backoff, gate, reconcile
from datafile_sidecar.core.gate import AdmissionPolicy, Verdict
from datafile_sidecar.core.state import (
    Announcement,
    Candidate,
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
