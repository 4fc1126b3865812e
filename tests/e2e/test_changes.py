"""What changed, by a real sidecar: in the status, in the log and after a restart, and what it costs."""

import asyncio
import json
from pathlib import Path
from typing import Any

from datafile_client.testing import make_datafile
from datafile_sidecar.cli.simulator import Simulator
from tests.datafiles import realistic
from tests.running import RunningSidecar

KEY, SECRET = "KEY1", "test-secret-1"


def datafile(revision: int, *, on: bool) -> bytes:
    return make_datafile({"checkout": on}, revision=revision, sdk_key=KEY)


async def changes(sidecar: RunningSidecar, revision: int) -> list[dict[str, Any]]:
    """Wait until the newest change is of this revision and has words; all changes."""
    async with asyncio.timeout(30):
        while True:
            found: list[dict[str, Any]] = (await sidecar.status())["keys"][KEY]["changes"]
            if found and found[-1]["revision"] == revision and found[-1]["what"] is not None:
                return found
            await asyncio.sleep(0.01)


def settings(optimizely: Simulator) -> dict[str, Any]:
    return {"sdk_keys": KEY, "webhook_secrets": SECRET, "url_template": optimizely.template, "poll_interval_s": 0}


async def test_words(tmp_path: Path) -> None:
    """Each flip has its words in status and log; after a restart, too, the next one is compared with what was there."""
    async with Simulator({KEY: datafile(1, on=True)}, secret=SECRET.encode()) as optimizely:
        async with RunningSidecar(tmp_path, **settings(optimizely)) as sidecar:
            optimizely.webhook_urls = [sidecar.webhook_url]
            await optimizely.publish(KEY, datafile(2, on=False))
            first, second = await changes(sidecar, 2)
            assert first["what"] is None
            assert second["what"][0] == "checkout: off for everyone"
            line = await sidecar.logged("datafile.changed", revision=2)
            assert (line["before"], line["what"][0]) == (1, "checkout: off for everyone")
            assert (await sidecar.status())["webhooks"]["delay_s"] <= 30
            assert (await sidecar.metrics())["datafile_sidecar_webhook_delay_seconds_count"] == 1
            assert await sidecar.stop() == 0
        async with RunningSidecar(tmp_path, **settings(optimizely)) as sidecar:
            optimizely.webhook_urls = [sidecar.webhook_url]
            await optimizely.publish(KEY, datafile(3, on=True))
            [change] = await changes(sidecar, 3)
            assert change["what"][0] == "checkout: on for everyone"
            assert await sidecar.stop() == 0


async def test_large_datafiles(tmp_path: Path) -> None:
    """While datafiles of 4 MiB in which every flag changed are compared, publications go on, and the newest is described."""
    bodies = {revision: large(revision) for revision in range(1, 6)}
    flags = len(json.loads(bodies[1])["featureFlags"])
    async with Simulator({KEY: bodies[1]}, secret=SECRET.encode()) as optimizely:
        async with RunningSidecar(tmp_path, **settings(optimizely)) as sidecar:
            optimizely.webhook_urls = [sidecar.webhook_url]
            for revision in range(2, 6):
                await optimizely.publish(KEY, bodies[revision])
                await sidecar.logged("datafile.published", revision=revision)
            newest = (await changes(sidecar, 5))[-1]
            assert (
                newest["what"][0]
                == f"{flags} flags off for everyone: feature_0, feature_1, feature_2 and {flags - 3} more"
            )
            assert await sidecar.stop() == 0


def large(revision: int) -> bytes:
    """A datafile of 4 MiB, whose flags are off for everyone at every odd revision but the first."""
    data = json.loads(realistic(4096, revision, KEY))
    if revision % 2 and revision > 1:
        data["rollouts"] = [{**one, "experiments": one["experiments"][-1:]} for one in data["rollouts"]]
        for flag in data["featureFlags"]:
            flag["experimentIds"] = []
    return json.dumps(data).encode()
