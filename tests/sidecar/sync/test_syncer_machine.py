"""The real loop on a real volume, in virtual time, under any order of news, lags, failures, restarts and rollbacks."""

import itertools
import os
from collections.abc import Iterator

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from datafile_sidecar.core.source_rotation import CDN
from datafile_sidecar.core.state import Trigger
from datafile_sidecar.upstream import FetchError
from datafile_sidecar.volume.status_file import Status
from tests.datafiles import minimal
from tests.sidecar.sync.model import KEY, ORIGIN, POLL_S, ROLLBACK_S, House


@pytest.fixture
def house() -> Iterator[House]:
    house = House()
    house.wait(1)
    yield house
    house.close()


@pytest.mark.parametrize("lag_s", [5, 60, 300])
@pytest.mark.parametrize("first", [CDN, ORIGIN])
def test_a_lagging_upstream_is_chased_until_it_serves_what_was_announced(
    house: House, lag_s: float, first: str
) -> None:
    """Within a second or a sixth of the lag of being served by either, it is on disk; at under 40 fetches in the first 6 s."""
    begun = house.loop.time()
    house.optimizely.fetches.clear()
    house.optimizely.history[first].append((begun + lag_s, 11))
    assert house.announce(11)
    house.wait(lag_s)
    assert house.published == 10
    assert house.syncer.status()["target_revision"] == 11
    house.wait(max(1.0, lag_s / 6))
    assert house.published == 11
    assert house.syncer.status()["trigger"] == "webhook"
    early = [at for at, _ in house.optimizely.fetches if at <= begun + 6]
    assert 5 < len(early) < 40


def test_what_never_comes_is_called_overdue_and_polling_goes_on(house: House) -> None:
    """After ten minutes the target falls, /status says what was missed, and the next poll still works."""
    house.announce(11)
    house.wait(601 + 30)
    status = house.syncer.status()
    assert (status["revision"], status["target_revision"]) == (10, 10)
    assert "revision 11 was announced" in status["last_error"]
    house.optimizely.fetches.clear()
    house.optimizely.history[CDN].append((0, 11))
    house.wait(2 * POLL_S)
    assert house.published == 11
    assert house.syncer.status()["last_error"] is None
    assert len(house.optimizely.fetches) <= 2


def test_a_burst_of_webhooks_makes_at_most_two_fetches(house: House) -> None:
    """Twenty deliveries of one event during a slow fetch cost nothing more."""
    house.optimizely.latency_s = 5.0
    house.optimizely.history[ORIGIN].append((0, 11))
    house.optimizely.fetches.clear()
    for _ in range(20):
        assert house.announce(11)
        house.wait(0.1)
    house.wait(8)
    assert house.published == 11
    assert len(house.optimizely.fetches) <= 2


def test_a_poisoned_webhook_holds_up_no_real_one(house: House) -> None:
    """A revision that will never exist is announced; those that do exist still arrive at once."""
    house.announce(999_999)
    house.wait(300)
    house.optimizely.history[CDN].append((0, 11))
    house.announce(11)
    house.wait(1)
    assert house.published == 11
    house.wait(600)
    assert house.syncer.status()["target_revision"] == 11


def test_a_restored_project_is_believed_when_upstream_insists(house: House) -> None:
    """An older revision is published after the patience is over, not before, with a new generation."""
    house.optimizely.history[CDN].append((house.loop.time(), 7))
    house.wait(ROLLBACK_S)
    assert house.published == 10
    assert "older than 10" in house.syncer.status()["last_error"]
    house.wait(3 * POLL_S)
    assert (house.published, house.syncer.status()["generation"]) == (7, 1)


def test_an_outage_is_no_insistence(house: House) -> None:
    """Two stale answers with an hour of failures between them don't throw a pod back to an old revision."""
    house.optimizely.history[CDN].append((house.loop.time(), 7))
    house.wait(1.2 * POLL_S)
    assert "older than 10" in house.syncer.status()["last_error"]
    house.optimizely.fails_until[CDN] = house.loop.time() + 4 * ROLLBACK_S
    house.wait(4 * ROLLBACK_S + 1.5 * POLL_S)
    assert "older than 10" in house.syncer.status()["last_error"]
    assert house.published == 10


def test_a_restored_project_is_believed_though_upstream_is_patchy(house: House) -> None:
    """Where two of three minutes are an outage, insisting takes more time, but comes to its end."""
    house.optimizely.history[CDN].append((house.loop.time(), 7))
    for _ in range(10):
        house.optimizely.fails_until[CDN] = house.loop.time() + 3 * POLL_S
        house.wait(4.5 * POLL_S)
    assert (house.published, house.syncer.status()["generation"]) == (7, 1)


def test_what_vouched_for_replaced_bytes_vouches_for_nothing(house: House) -> None:
    """A CDN that goes on to say "not modified" of an old revision is not taken for one that confirms the new one."""
    house.optimizely.history[ORIGIN].append((0, 11))
    house.announce(11)
    house.wait(1)
    assert house.published == 11
    house.wait(2 * POLL_S)
    assert "older than 11" in house.syncer.status()["last_error"]
    house.wait(ROLLBACK_S + POLL_S)
    assert house.published == 10


def test_a_webhook_ends_a_rest_once(house: House) -> None:
    """A source that refused us is asked at once when a webhook comes, and left alone again if it still refuses."""
    house.optimizely.fails_until[CDN] = house.optimizely.fails_until[ORIGIN] = house.loop.time() + 10_000
    house.wait(600)
    house.optimizely.fetches.clear()
    house.announce(11)
    house.wait(0.05)
    assert house.optimizely.fetches
    house.wait(60)
    assert len(house.optimizely.fetches) < 40


@pytest.mark.parametrize(
    ("failure", "rest_s"), [(FetchError("client_error", "403"), 60.0), (FetchError("throttled", "429", 120.0), 120.0)]
)
def test_a_source_that_refuses_us_is_left_alone(house: House, failure: FetchError, rest_s: float) -> None:
    """A wrong key or a throttled one costs one request a minute, or as few as were asked for, and recovers by itself."""
    house.optimizely.failure = failure
    house.optimizely.fails_until[CDN] = house.loop.time() + 1000
    house.wait(2 * POLL_S)
    house.optimizely.fetches.clear()
    house.wait(10 * rest_s - 400)
    times = [at for at, _ in house.optimizely.fetches]
    assert times
    assert all(later - earlier >= rest_s for earlier, later in itertools.pairwise(times))
    house.optimizely.history[CDN].append((0, 11))
    house.wait(1000 + rest_s)
    assert house.published == 11


def test_a_new_token_ends_the_rest_of_who_refused_us(house: House) -> None:
    """A wrong access token that is mended while the sidecar runs works at once, not a minute later."""
    house.optimizely.failure = FetchError("client_error", "403")
    house.optimizely.fails_until[CDN] = house.loop.time() + 65
    house.wait(70)
    house.optimizely.history[CDN].append((0, 11))
    assert house.published == 10
    house.loop.call_soon(house.syncer.retry)
    house.wait(0.1)
    assert house.published == 11


def test_news_during_a_fetch_that_is_refused_are_not_left_to_rest(house: House) -> None:
    """What is mended while the old answer is still on its way is tried at once, not after that answer's rest."""
    house.optimizely.failure = FetchError("client_error", "403")
    house.optimizely.latency_s = 2.0
    house.optimizely.fails_until[CDN] = house.loop.time() + 2.5
    house.optimizely.history[CDN].append((0, 11))
    house.hint()
    house.wait(1)
    house.loop.call_soon(house.syncer.retry)
    house.wait(4)
    assert house.published == 11


def test_a_bootstrap_file_that_could_not_be_written_is_tried_again(house: House) -> None:
    """A volume that was full when the moment came does not leave the pod without a datafile for the whole outage."""
    house.end()
    (house.directory / f"{KEY}.json").unlink()
    (house.directory / f"{KEY}.status.json").unlink()
    house.optimizely.fails_until[CDN] = house.loop.time() + 1000
    house.bootstrap_dir = house.directory / "bootstrap"
    house.bootstrap_dir.mkdir()
    (house.bootstrap_dir / f"{KEY}.json").write_bytes(minimal(9))
    house.begin()
    house.volume.refuses = 3
    house.wait(30)
    assert (house.published, house.syncer.status()["trigger"]) == (9, "bootstrap")


def test_those_told_by_a_peer_fetch_within_a_tenth_of_a_second_but_not_all_at_once() -> None:
    """A fleet that one webhook reaches through peers does not meet upstream in one instant."""
    delays = []
    for seed in range(12):
        house = House(seed)
        house.wait(1)
        house.optimizely.fetches.clear()
        told = house.loop.time()
        house.announce(11, Trigger.PEER)
        house.wait(0.2)
        delays.append(house.optimizely.fetches[0][0] - told)
        house.close()
    assert max(delays) <= 0.101
    assert max(delays) - min(delays) > 0.05


def test_a_nudge_finds_what_came_up_to_a_minute_later(house: House) -> None:
    """An old project's webhook names nothing that compares, but the change that it was about is found."""
    house.optimizely.history[CDN].append((house.loop.time() + 20, 11))
    house.hint()
    house.wait(35)
    assert (house.published, house.syncer.status()["trigger"]) == (11, "webhook")


def test_a_deleted_file_is_back_after_one_poll_though_upstream_says_not_modified(house: House) -> None:
    """What a conditional request confirms must be on the volume, or the request must not be conditional."""
    (house.directory / f"{KEY}.json").unlink()
    house.wait(1.2 * POLL_S)
    assert house.published == 10


def test_a_short_outage_is_over_before_the_next_poll(house: House) -> None:
    """A failed fetch is retried soon, not an interval later."""
    house.end()
    (house.directory / f"{KEY}.json").unlink()
    house.optimizely.fails_until[CDN] = house.loop.time() + 3
    house.begin()
    house.wait(2.9)
    assert house.published is None
    house.wait(4)
    assert house.published == 10


@settings(max_examples=60, stateful_step_count=30, deadline=None)
class AnyOrder(RuleBasedStateMachine):
    """Random news, faults and restarts. The model knows only what upstream served and when it was last allowed to go back."""

    def __init__(self) -> None:
        super().__init__()
        self.house = House()
        self.newest = 10
        self.last: Status | None = None
        self.file_was_lost = False

    @property
    def now(self) -> float:
        return self.house.loop.time()

    @rule(
        cdn_s=st.sampled_from([0, 0, 1, 30, 400]), origin_s=st.sampled_from([0, 0, 1, 30, 400]), told=st.integers(0, 3)
    )
    def change(self, cdn_s: float, origin_s: float, told: int) -> None:
        """A flag is flipped: both places serve it after their lags; the webhook is lost, or comes up to three times."""
        self.newest += 1
        self.house.optimizely.history[CDN].append((self.now + cdn_s, self.newest))
        self.house.optimizely.history[ORIGIN].append((self.now + origin_s, self.newest))
        for _ in range(told):
            self.house.announce(self.newest)

    @rule(back=st.integers(0, 5), trigger=st.sampled_from([Trigger.WEBHOOK, Trigger.PEER]))
    def late_webhook(self, back: int, trigger: Trigger) -> None:
        """A webhook of now or before arrives, perhaps again, perhaps by way of another pod."""
        self.house.announce(max(0, self.newest - back), trigger)

    @rule()
    def poisoned_webhook(self) -> None:
        """A revision is announced that upstream never serves."""
        self.house.announce(self.newest + 1_000_000)

    @rule()
    def unattributed_webhook(self) -> None:
        """An event of an old project, which may be another environment's."""
        self.house.hint()

    @rule(for_s=st.sampled_from([1, 30, 300]), back=st.integers(1, 3))
    def stale_edge(self, for_s: float, back: int) -> None:
        """For a while, the CDN serves something older again."""
        revision = self.house.optimizely.serves(CDN)
        self.house.optimizely.history[CDN] += [(self.now, max(1, revision - back)), (self.now + for_s, self.newest)]

    @rule(place=st.sampled_from([CDN, ORIGIN]), for_s=st.sampled_from([1, 20, 200, 1000]))
    def outage(self, place: str, for_s: float) -> None:
        """One place answers with errors for a while."""
        self.house.optimizely.fails_until[place] = self.now + for_s

    @rule(latency_s=st.sampled_from([0.001, 0.01, 2.0]))
    def latency(self, latency_s: float) -> None:
        """Upstream becomes slower or faster."""
        self.house.optimizely.latency_s = latency_s

    @rule()
    def restart(self) -> None:
        """The sidecar dies at any moment and comes back."""
        self.house.end()
        self.house.begin()

    @rule()
    def lose_file(self) -> None:
        """Somebody deletes the published file: its revision is still the floor."""
        (self.house.directory / f"{KEY}.json").unlink(missing_ok=True)
        self.file_was_lost = True

    @rule()
    def touch_file(self) -> None:
        """Somebody touches the published file, which changes nothing."""
        if (path := self.house.directory / f"{KEY}.json").exists():
            os.utime(path)

    @rule(turns=st.integers(2, 20))
    def several_older_versions(self, turns: int) -> None:
        """For a while, edges that are stuck at different revisions answer in turn."""
        history = self.house.optimizely.history[CDN]
        for turn in range(turns):
            history.append((self.now + 60 * turn, max(1, self.newest - 1 - turn % 2)))
        history.append((self.now + 60 * turns, self.newest))

    @rule(step_s=st.sampled_from([-3600, -10, 10, 3600]))
    def set_clock(self, step_s: float) -> None:
        """Somebody sets the wall clock."""
        self.house.clock_offset_s += step_s

    @precondition(lambda self: self.newest > 12)
    @rule()
    def restore_project(self) -> None:
        """The project is restored: everywhere, for good, an older revision is the newest."""
        self.newest -= 2
        for place in (CDN, ORIGIN):
            self.house.optimizely.history[place] = [(0.0, self.newest)]

    @rule(seconds=st.sampled_from([0.005, 0.2, 3.0, 61.0, 200.0]))
    def time_passes(self, seconds: float) -> None:
        """Nothing happens, for a moment or for minutes. After a turn of the loop, no check lies in the future."""
        self.house.wait(seconds)
        if seconds > POLL_S * 1.5 and self.house.syncer.status()["checked"]:
            assert self.house.checked_at() <= self.house.unix_now() + 3

    @invariant()
    def never_goes_back(self) -> None:
        """Nothing is published that is older than before, but for a believed rollback: also after the file was lost."""
        for status, at in zip(self.house.publications, self.house.published_at, strict=True):
            if self.last:
                assert (status.generation, status.revision) >= (self.last.generation, self.last.revision)
                assert status.generation <= self.last.generation + (status.revision < self.last.revision)
                assert status.revision >= self.last.revision or self._insisted(status, self.last, at) >= 9
            self.last = status
            self.file_was_lost = False
        self.house.publications.clear()
        self.house.published_at.clear()

    def _insisted(self, status: Status, last: Status, at: float) -> int:
        """How often upstream answered with just this, since it last served what was left: nine times two minutes are enough."""
        answers = [revision for time, revision in self.house.optimizely.answers if time <= at]
        older = itertools.takewhile(lambda revision: revision < last.revision, reversed(answers))
        return sum(revision == status.revision for revision in older)

    @invariant()
    def the_file_is_whole(self) -> None:
        """A reader finds the last publication, or nothing where somebody deleted it."""
        assert self.house.published == (self.last.revision if self.last and not self.file_was_lost else None)

    @invariant()
    def the_loop_goes_on(self) -> None:
        """No order of events ends or jams it."""
        assert not self.house.task.done()
        assert self.house.loop.run_until_complete(self._alive())

    async def _alive(self) -> bool:
        return self.house.syncer.is_alive

    def teardown(self) -> None:
        """When all is quiet, what upstream serves is on the volume, and nothing is fetched but polls."""
        for place in (CDN, ORIGIN):
            self.house.optimizely.history[place] = [(0.0, self.newest)]
            self.house.optimizely.fails_until[place] = 0.0
        self.house.wait(ROLLBACK_S + 3 * POLL_S)
        assert self.house.published == self.newest
        self.house.optimizely.fetches.clear()
        self.house.wait(10 * POLL_S)
        assert 8 <= len(self.house.optimizely.fetches) <= 12
        self.house.close()


TestAnyOrder = AnyOrder.TestCase
