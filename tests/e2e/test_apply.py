"""How long a worker takes to decide by what was published: told for each swap, on any disk."""

import asyncio
import json
import sys
from pathlib import Path

from datafile_sidecar.cli.simulator import Simulator
from tests.datafiles import minimal
from tests.running import RunningSidecar

KEY = "KEY1"
FLIPS = 6
SLOW_DISK = """
import os, sys, time
sync = os.fsync
def slow(descriptor):
    sync(descriptor)
    time.sleep(0.15)
os.fsync = slow
from datafile_sidecar.__main__ import main
sys.argv = ["datafile-sidecar", "run"]
main()
"""


class OnSlowDisk(RunningSidecar):
    """A sidecar whose every sync takes 150 ms."""

    command = (sys.executable, "-c", SLOW_DISK)


async def test_each_swap_is_told_though_the_disk_is_slow(tmp_path: Path) -> None:
    """A worker that swaps while the sidecar still syncs the directory is measured like any other."""
    async with (
        Simulator({KEY: minimal(1)}, secret=b"s") as optimizely,
        OnSlowDisk(
            tmp_path / "volume", sdk_keys=KEY, url_template=optimizely.template, poll_interval_s=0, webhook_secrets="s"
        ) as sidecar,
    ):
        optimizely.webhook_urls = [sidecar.webhook_url]
        _, writer = await asyncio.open_unix_connection(sidecar.directory / "sidecar.sock")
        writer.write(_report(1))
        for revision in range(2, 2 + FLIPS):
            await optimizely.publish(KEY, minimal(revision))
            async with asyncio.timeout(20):
                while json.loads((sidecar.directory / f"{KEY}.json").read_text())["revision"] != str(revision):
                    await asyncio.sleep(0.001)
            writer.write(_report(revision))
            await sidecar.logged("datafile.applied", revision=revision)
        assert (await sidecar.metrics())[f'datafile_sidecar_apply_seconds_count{{sdk_key="{KEY}"}}'] == FLIPS
        writer.close()


def _report(revision: int) -> bytes:
    line = {"v": 1, "id": "0a1b2c3d", "sdk_key": KEY, "pid": 17, "host": "app", "revision": revision}
    return json.dumps(line).encode() + b"\n"
