"""A new pod does not begin behind its fleet unknowingly: it waits for a moment for what its peers have, in virtual time."""

import shutil
from collections.abc import Iterator

import pytest

from datafile_sidecar.core.source_rotation import CDN
from tests.datafiles import minimal
from tests.sidecar.sync.model import KEY, ORIGIN, POLL_S, House
from tests.sidecar.sync.test_never_back import logged, serve


@pytest.fixture
def house() -> Iterator[House]:
    """A sidecar with peers and an empty volume, just started. Upstream serves 10."""
    house = House()
    house.syncer.ask_peers = lambda _: True
    house.wait(0.2)
    yield house
    house.close()


def hear(house: House, revision: int | None, generation: int = 0) -> None:
    """The peers have answered, as the daemon passes it on."""

    async def inside() -> None:
        if revision is not None:
            house.syncer.expect(generation, revision)
        house.syncer.receive(None)

    house.loop.run_until_complete(inside())


def test_upstream_is_asked_when_the_peers_have_answered(house: House) -> None:
    """Nothing is published before that, for a second at most, and everything at once then."""
    assert house.optimizely.fetches == []
    hear(house, None)
    house.wait(0.1)
    assert [revision for _, revision in house.optimizely.answers] == [house.published] == [10]


def test_what_is_heard_before_the_loop_begins_counts(house: House) -> None:
    """With many keys, one key's turn to load comes late: what the bus has said meanwhile still holds an older one back."""
    house.end()
    shutil.rmtree(house.directory)
    house.begin()
    house.syncer.expect(0, 11)
    house.wait(4)
    assert house.published is None
    house.wait(3)
    assert house.published == 10


def test_peers_that_hang_cost_a_second(house: House) -> None:
    """Upstream is asked then, as if there were none."""
    house.wait(0.7)
    assert house.optimizely.fetches == []
    house.wait(0.2)
    assert house.published == 10


def test_a_stale_edge_is_not_the_beginning(house: House) -> None:
    """What the fleet has is published as soon as upstream serves it; no target, no chase and no rollback come of it."""
    hear(house, 11)
    house.wait(2.5)
    assert house.published is None
    assert house.syncer.state.target is None
    assert "older than what other pods have" in str(house.syncer.state.problem)
    assert len(house.optimizely.fetches) <= 4
    serve(house, 11)
    house.wait(1.1)
    assert house.syncer.status()["generation"] == 0
    assert {status.revision for status in house.publications} == {11}


def test_five_seconds_are_the_most(house: House) -> None:
    """A CDN that stays behind is believed then: a pod with an old datafile is better than one without."""
    hear(house, 11)
    house.wait(4.7)
    assert house.published is None
    house.wait(0.2)
    assert house.published == 10
    assert house.syncer.status()["last_error"] is None
    asked = len(house.optimizely.fetches)
    assert asked <= 7
    house.wait(POLL_S / 2)
    assert len(house.optimizely.fetches) <= asked + 1
    assert logged(house, "webhook.overdue") == 0


def test_after_a_rollback_a_stale_edge_is_not_the_beginning_either(house: House) -> None:
    """The fleet went back to 9, and the edge of the new pod still serves 10: it waits for 9."""
    hear(house, 9, generation=1)
    house.wait(2)
    assert house.published is None
    serve(house, 9)
    house.wait(1.1)
    assert {status.revision for status in house.publications} == {9}


def test_something_newer_is_welcome(house: House) -> None:
    """What the peers have is a floor, and no more."""
    serve(house, 12)
    hear(house, 11)
    house.wait(0.1)
    assert house.published == 12


def test_a_pod_with_a_kept_file_does_not_ask(house: House) -> None:
    """It is ready at once, and asks upstream at once, whatever the peers would say."""
    hear(house, None)
    house.wait(1)
    house.end()
    house.begin()
    house.syncer.ask_peers = lambda key: pytest.fail(f"{key} asks")
    house.wait(0.1)
    assert house.syncer.state.problem is None
    hear(house, 11)
    house.wait(1)
    assert house.syncer.state.problem is None
    assert house.syncer.status()["last_error"] is None


@pytest.mark.parametrize("after_s", [2.0, 5.0, 7.0])
def test_the_bootstrap_file_waits_as_long_and_is_not_forgotten(house: House, after_s: float) -> None:
    """In an outage of upstream it is published when the moment is over."""
    bootstrap_dir = house.directory / "bootstrap"
    bootstrap_dir.mkdir()
    (bootstrap_dir / f"{KEY}.json").write_bytes(minimal(9))
    house.end()
    house.bootstrap_dir, house.bootstrap_after_s = bootstrap_dir, after_s
    house.optimizely.fails_until[CDN] = house.optimizely.fails_until[ORIGIN] = house.loop.time() + 100
    house.begin()
    house.wait(0.1)
    hear(house, 11)
    house.wait(max(after_s, 5.0) - 0.3)
    assert house.published is None
    house.wait(0.4)
    assert house.published == 9
