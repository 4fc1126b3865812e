"""From the event of an older project to the loop of its key, in virtual time."""

from collections.abc import Iterator

import pytest

from datafile_sidecar.core.source_rotation import CDN
from datafile_sidecar.core.state import Trigger
from datafile_sidecar.core.webhook import DatafileUpdated
from datafile_sidecar.sync import dispatch
from tests.sidecar.sync.model import KEY, POLL_S, House


@pytest.fixture
def house() -> Iterator[House]:
    house = House()
    house.wait(1)
    yield house
    house.close()


def notify(house: House, revision: int, environment: str | None = "Production", project_id: str = "1234") -> bool:
    """Pass on an event without URLs; whether the key is fetched because of it."""

    async def inside() -> bool:
        event = DatafileUpdated(project_id, revision, environment, ())
        return dispatch.notify({KEY: house.syncer}, event, Trigger.WEBHOOK) == (KEY,)

    return house.loop.run_until_complete(inside())


@pytest.mark.parametrize("restarted", [False, True])
def test_project_and_environment_announce_a_revision(house: House, restarted: bool) -> None:
    """They are known from the datafile, after a restart too: the revision is the target, and is chased until it is served."""
    if restarted:
        house.end()
        house.begin()
        house.wait(1)
    house.optimizely.history[CDN].append((house.loop.time() + 90, 11))
    assert notify(house, 11)
    assert house.syncer.status()["target_revision"] == 11
    assert house.syncer.state.is_behind
    house.wait(90 + 90 / 6)
    assert (house.published, house.syncer.state.is_behind) == (11, False)
    assert house.syncer.status()["changes"][-1]["propagation_s"] == pytest.approx(90, abs=15)
    assert not notify(house, 11)
    assert not notify(house, 12, project_id="9999")


def test_a_name_that_was_not_ours_counts_no_longer(house: House) -> None:
    """A target that never came is in `last_error` after ten minutes; what is served then is published, and ends that."""
    assert notify(house, 9000)
    house.optimizely.history[CDN].append((house.loop.time() + 300, 11))
    house.wait(601 + 30)
    status = house.syncer.status()
    assert (status["revision"], status["target_revision"]) == (11, 11)
    assert "revision 9000 was announced" in status["last_error"]
    house.optimizely.history[CDN].append((house.loop.time(), 12))
    house.wait(2 * POLL_S)
    status = house.syncer.status()
    assert (status["revision"], status["target_revision"], status["last_error"]) == (12, 12, None)


@pytest.mark.parametrize("environment", ["Staging", None])
def test_another_name_is_a_hint(house: House, environment: str | None) -> None:
    """An environment of another name, or none, may still be ours: the sidecar looks, and raises no target."""
    house.optimizely.history[CDN].append((house.loop.time() + 5, 11))
    assert notify(house, 9000, environment)
    assert house.syncer.status()["target_revision"] == 10
    house.wait(12)
    assert house.published == 11
