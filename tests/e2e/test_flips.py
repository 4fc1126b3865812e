"""The main job, whole: real processes, real sockets, a real file and the real SDK."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from datafile_client.testing import make_datafile
from datafile_sidecar.cli.simulator import Simulator
from tests.running import RunningApp, RunningSidecar

KEY, SECRET = "KEY1", "test-secret-1"
WORKERS = 2


def datafile(revision: int) -> bytes:
    """A datafile whose flag is on at every even revision, and whose variable says which one it is."""
    flag = {"on": revision % 2 == 0, "variables": {"revision": str(revision)}}
    return make_datafile({"checkout": flag}, revision=revision, sdk_key=KEY)


@dataclass
class Stage:
    """Optimizely, a sidecar and an app with two workers, which decide by revision 1."""

    optimizely: Simulator
    sidecar: RunningSidecar
    app: RunningApp


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with (
        Simulator({KEY: datafile(1)}, secret=SECRET.encode()) as optimizely,
        RunningSidecar(
            tmp_path / "volume",
            sdk_keys=KEY,
            webhook_secrets=SECRET,
            url_template=optimizely.template,
            poll_interval_s=0,
        ) as sidecar,
        RunningApp(DATAFILE_DIR=str(sidecar.directory), DATAFILE_SDK_KEYS=KEY) as app,
    ):
        optimizely.webhook_urls = [sidecar.webhook_url]
        await app.decided_by(1)
        yield Stage(optimizely, sidecar, app)


async def test_thirty_flips(stage: Stage) -> None:
    """Each of thirty flips in a row is decided rightly by every worker, none is left out, and all end cleanly."""
    for revision in range(2, 32):
        assert await stage.optimizely.publish(KEY, datafile(revision)) == 202
        await stage.app.decided_by(revision)
    for worker in {made.worker for made in stage.app.decisions}:
        made = [(made.revision, made.on) for made in stage.app.decisions if made.worker == worker]
        assert made == [(revision, revision % 2 == 0) for revision in range(1, 32)]
    status = (await stage.sidecar.status())["keys"][KEY]
    assert (status["revision"], status["target_revision"], status["trigger"]) == (31, 31, "webhook")
    assert await stage.app.stop() == 0
    assert await stage.sidecar.stop() == 0


async def test_burst(stage: Stage) -> None:
    """Thirty flips at once end in the newest: no worker goes back on the way, or stays behind."""
    for revision in range(2, 32):
        await stage.optimizely.publish(KEY, datafile(revision))
    await stage.app.decided_by(31)
    for worker in {made.worker for made in stage.app.decisions}:
        made = [(made.revision, made.on) for made in stage.app.decisions if made.worker == worker]
        assert made == sorted(made)
        assert all(on == (revision % 2 == 0) for revision, on in made)


async def test_lag(stage: Stage) -> None:
    """A webhook that is faster than the CDN is not forgotten: the flip arrives as soon as the CDN has it."""
    stage.optimizely.cdn_lag_s = stage.optimizely.origin_lag_s = 1
    await stage.optimizely.publish(KEY, datafile(2))
    assert [made.on for made in await stage.app.decided_by(2)] == [True] * WORKERS
