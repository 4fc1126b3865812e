"""A loop that ends or jams must not leave a process behind that looks well."""

import asyncio
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from datafile_sidecar.core.state import Trigger
from tests.sidecar.sync.model import House

BREAK = textwrap.dedent("""
    import asyncio, os, sys
    from datafile_sidecar.cli import daemon, main as cli
    from datafile_sidecar.sync.syncer import KeySyncer

    async def returns(self): await asyncio.sleep(0.1)
    async def raises(self): await asyncio.sleep(0.1); raise KeyError("a bug")

    setattr(*{"loop": (KeySyncer, "run"), "house": (daemon.Daemon, "_report_regularly")}[sys.argv[1]], locals()[sys.argv[2]])
    os._exit(cli.main(["run"]))
""")


@pytest.mark.parametrize("task", ["loop", "house"])
@pytest.mark.parametrize("way", ["returns", "raises"])
def test_a_core_task_that_ends_ends_the_process(tmp_path: Path, task: str, way: str) -> None:
    """Exit status 1 and the cause in the log, so that Kubernetes restarts it; never a green shell without a loop."""
    environment = {
        "DATAFILE_SDK_KEYS": "KEY1",
        "DATAFILE_DIR": str(tmp_path),
        "DATAFILE_URL_TEMPLATE": "http://127.0.0.1:9/{sdk_key}.json",
        "DATAFILE_WEBHOOK_LISTEN": "127.0.0.1:0",
        "DATAFILE_ADMIN_LISTEN": "127.0.0.1:0",
    }
    command = [sys.executable, "-c", BREAK, task, way]
    ended = subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=50)
    assert ended.returncode == 1
    assert '"event": "sidecar.failed"' in ended.stderr
    assert ("which it never should" if way == "returns" else "a bug") in ended.stderr


def test_a_jammed_loop_is_not_alive() -> None:
    """A fetch that ignores its own deadline turns /livez to 503, though the process answers."""
    house = House()
    house.wait(1)
    house.optimizely.latency_s = 10_000

    async def announce_and_wait(seconds: float) -> bool:
        house.syncer.announce(11, (), Trigger.WEBHOOK)
        await asyncio.sleep(seconds)
        return house.syncer.is_alive

    assert house.loop.run_until_complete(announce_and_wait(60))
    assert not house.loop.run_until_complete(announce_and_wait(60))
    house.close()
