"""What once took a pod back, or kept it behind: each was seen on a running sidecar, and stands here in virtual time."""

import os
from collections.abc import Iterator
from contextlib import closing

import pytest

from datafile_sidecar.core.source_rotation import CDN
from datafile_sidecar.core.state import Trigger
from datafile_sidecar.upstream import FetchError
from tests.datafiles import minimal
from tests.sidecar.sync.model import KEY, ORIGIN, POLL_S, ROLLBACK_S, House


@pytest.fixture
def house() -> Iterator[House]:
    house = House()
    house.wait(1)
    yield house
    house.close()


def serve(house: House, revision: int) -> None:
    """From now on, CDN and origin serve this revision."""
    for place in (CDN, ORIGIN):
        house.optimizely.history[place].append((house.loop.time(), revision))


def logged(house: House, event: str) -> int:
    """How often this event stands in the log."""
    house.log.flush()
    return (house.directory / "log").read_text().count(f'"{event}"')


# What insists must be one version


@pytest.mark.parametrize("answers", [14, 15, 16])
@pytest.mark.parametrize("seed", range(5))
def test_one_answer_of_something_still_older_is_not_believed_for_what_insisted(answers: int, seed: int) -> None:
    """Upstream insists on 9 for a quarter of an hour, then one edge serves 3 once: the volume never holds 3."""
    with closing(House(seed)) as house:
        house.wait(1)
        serve(house, 9)
        house.optimizely.answers.clear()
        while len(house.optimizely.answers) < answers and house.published == 10:
            house.wait(1)
        serve(house, 3)
        house.wait(POLL_S)
        serve(house, 9)
        house.wait(5 * POLL_S)
        assert {status.revision for status in house.publications} <= {10, 9}
        assert (house.published, house.syncer.status()["generation"]) == (9, 1)


@pytest.mark.parametrize("first", [0, 1])
def test_of_two_that_insist_the_newer_is_believed(house: House, first: int) -> None:
    """An edge that is stuck far back, beside one that serves what the project was restored to, takes no pod to its own."""
    for turn in range(first, 60):
        serve(house, 3 if turn % 2 else 9)
        house.wait(POLL_S)
    assert {status.revision for status in house.publications} == {10, 9}
    assert house.published == 9


# What must survive a restart


def test_a_restart_does_not_forget_what_a_rollback_went_away_from(house: House) -> None:
    """After a rollback and a restart, one stale answer of what was left is not published."""
    serve(house, 9)
    house.wait(ROLLBACK_S + 3 * POLL_S)
    assert house.published == 9
    house.end()
    house.begin()
    house.wait(2 * POLL_S)
    serve(house, 10)
    house.wait(1.2 * POLL_S)
    serve(house, 9)
    house.wait(2 * POLL_S)
    assert (house.published, house.syncer.status()["generation"]) == (9, 1)


# A file that was touched, replaced or removed


def test_a_touched_file_is_still_the_published_one(house: House) -> None:
    """Somebody who only touches the file takes nothing back: it is not fetched again, and a stale edge gets no chance."""
    serve(house, 9)
    os.utime(house.directory / f"{KEY}.json")
    house.wait(3 * POLL_S)
    assert (house.published, house.syncer.status()["generation"]) == (10, 0)
    assert logged(house, "datafile.lost") == 0


@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_a_file_that_is_gone_is_not_replaced_by_an_older_one(house: House, how: str) -> None:
    """Its revision stays the floor: a stale edge puts nothing older in its place, and the right one is back at once."""
    serve(house, 9)
    path = house.directory / f"{KEY}.json"
    path.unlink() if how == "removed" else path.write_bytes(minimal(99) + b"\n")
    house.wait(3 * POLL_S)
    assert house.syncer.state.problem
    assert (house.syncer.status()["revision"], house.syncer.status()["generation"]) == (None, 0)
    assert {status.revision for status in house.publications} == {10}
    serve(house, 10)
    house.wait(1.2 * POLL_S)
    assert house.published == 10


@pytest.mark.parametrize("how", ["too large", "no regular file", "no datafile"])
def test_a_file_that_became_unusable_while_no_sidecar_ran_leaves_its_floor(house: House, how: str) -> None:
    """Whatever stands there after a restart, nothing older than the last publication is published."""
    path = house.directory / f"{KEY}.json"
    serve(house, 9)
    house.end()
    path.unlink()
    if how == "no regular file":
        path.mkdir()
    else:
        path.write_bytes(b"[" if how == "no datafile" else b" " * (8 << 20) + b"{}")
    house.begin()
    house.wait(2 * POLL_S)
    assert "older than 10" in house.syncer.status()["last_error"]
    assert house.syncer.state.problem
    if how == "no regular file":
        path.rmdir()
    serve(house, 10)
    house.wait(2 * POLL_S)
    assert house.published == 10


def test_a_file_that_was_removed_while_no_sidecar_ran_leaves_its_floor(house: House) -> None:
    """What the status file says of it still counts: no older one takes its place."""
    house.end()
    (house.directory / f"{KEY}.json").unlink()
    serve(house, 9)
    house.begin()
    house.wait(3 * POLL_S)
    assert {status.revision for status in house.publications} == {10}
    serve(house, 11)
    house.wait(1.2 * POLL_S)
    assert house.published == 11


# An answer that confirms nothing


def test_a_validator_of_whole_seconds_hides_no_announced_revision(house: House) -> None:
    """Two revisions in one second have one Last-Modified: while something newer is announced, "not modified" is not believed."""
    house.optimizely.validates_by_seconds = True
    serve(house, 11)
    house.announce(11, urls=())
    house.wait(2)
    assert house.published == 11
    serve(house, 12)
    house.announce(12, urls=())
    house.wait(2)
    assert house.published == 12


@pytest.mark.parametrize("failure", [FetchError("client_error", "403"), FetchError("throttled", "429", 60.0)])
def test_half_a_second_of_refusals_does_not_delay_an_announced_revision(house: House, failure: FetchError) -> None:
    """A kill switch whose webhook meets a throttled CDN is published when the CDN is over it, not a minute later."""
    house.optimizely.failure = failure
    house.optimizely.fails_until[CDN] = house.optimizely.fails_until[ORIGIN] = house.loop.time() + 0.5
    serve(house, 11)
    house.announce(11)
    house.wait(2)
    assert house.published == 11


# Replays


def test_replayed_hints_cost_few_fetches(house: House) -> None:
    """A captured webhook of an old project, posted again and again, sets off no more than a look now and then."""
    house.wait(POLL_S / 4)
    house.optimizely.fetches.clear()
    for _ in range(500):
        house.hint()
        house.wait(0.01)
    assert len(house.optimizely.fetches) <= 10
    house.wait(3)
    assert len(house.optimizely.fetches) <= 13


# Clocks


def test_a_check_is_never_in_the_future(house: House) -> None:
    """When the clock is set back by an hour during an outage, /status and the status file tell the true age of the last check."""
    house.wait(POLL_S)
    house.optimizely.fails_until[CDN] = house.loop.time() + 10_000
    house.wait(2 * POLL_S)
    house.clock_offset_s = -3600
    house.wait(2 * POLL_S)
    age_s = house.unix_now() - house.checked_at()
    assert POLL_S < age_s < 6 * POLL_S


# A volume that can't be written to


def test_a_full_volume_does_not_make_the_sidecar_hammer_upstream(house: House) -> None:
    """A datafile that can't be written is fetched again when it is tried again, and the log says truly when that is."""
    house.optimizely.fetches.clear()
    house.volume.refuses = 1000
    serve(house, 11)
    house.announce(11)
    house.wait(350)
    failures = logged(house, "publish.failed")
    assert 8 <= failures <= 24
    assert len(house.optimizely.fetches) <= failures + 3
    house.volume.refuses = 0
    house.wait(31)
    assert house.published == 11


def test_a_rollback_is_logged_when_it_is_on_the_volume(house: House) -> None:
    """What could not be written did not happen: the log tells of a rollback once, and after it."""
    serve(house, 9)
    house.wait(ROLLBACK_S - POLL_S)
    house.volume.refuses = 3
    house.wait(4 * POLL_S)
    assert house.published == 9
    assert logged(house, "datafile.rolled_back") == 1


# Relayed webhooks


def test_a_relayed_webhook_is_as_good(house: House) -> None:
    """None of this depends on the way by which the webhook came."""
    serve(house, 11)
    house.announce(11, Trigger.PEER)
    house.wait(1)
    assert house.published == 11
