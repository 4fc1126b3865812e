"""A worker whose SDK can't use what was published: on call reads which one, and why, and sees it heal."""

import asyncio
import re
import sys
from pathlib import Path

from datafile_sidecar.cli.simulator import Simulator
from tests.datafiles import minimal
from tests.running import RunningSidecar

KEY = "KEY1"
OLD_SDK = """
import sys
from optimizely import project_config
project_config.SUPPORTED_VERSIONS.remove("4")  # as in an SDK of before
from datafile_client import OptimizelyWatcher
watcher = OptimizelyWatcher(sdk_key="KEY1")
watcher.start()
sys.stdin.read()
"""


def of_version(version: str, revision: int) -> bytes:
    body, count = re.subn(rb'"version": ?"4"', f'"version":"{version}"'.encode(), minimal(revision))
    assert count == 1
    return body


async def lagging(sidecar: RunningSidecar, revision: int, timeout_s: float) -> str:
    """What `status --wait-for-revision` prints below its table, nothing where it says yes."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "datafile_sidecar", "status", "--url", sidecar.admin_url, "--sdk-key", KEY),
        *("--wait-for-revision", str(revision), "--timeout", str(timeout_s)),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    _, _, rest = output.decode().partition("not confirmed at")
    assert bool(process.returncode) == bool(rest), output.decode()
    return rest


async def test_a_refusal_is_named_with_its_reason_and_heals(tmp_path: Path) -> None:
    """An app with an SDK that is too old for a datafile is named by `status` within a second, until a datafile suits it."""
    async with (
        Simulator({KEY: of_version("3", 1)}, secret=b"s") as optimizely,
        RunningSidecar(
            tmp_path, sdk_keys=KEY, url_template=optimizely.template, poll_interval_s=0, webhook_secrets="s"
        ) as sidecar,
    ):
        optimizely.webhook_urls = [sidecar.webhook_url]
        app = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", OLD_SDK), env={"DATAFILE_DIR": str(tmp_path)}, stdin=asyncio.subprocess.PIPE
        )
        try:
            assert await lagging(sidecar, 1, 30) == ""
            optimizely.put(KEY, of_version("4", 2))
            await optimizely.announce(KEY, 2)
            said = await lagging(sidecar, 2, 1)
            assert re.search(rf"worker \w{{8}} \(pid {app.pid} on .*can't use revision 2: .*version", said), said
            assert (await sidecar.metrics())[f'datafile_sidecar_workers_refusing{{sdk_key="{KEY}"}}'] == 1
            (line,) = [line for line in sidecar.logs if line["event"] == "worker.datafile_refused"]
            assert line["pid"] == app.pid
            await optimizely.publish(KEY, of_version("3", 3))
            assert await lagging(sidecar, 3, 30) == ""
            assert (await sidecar.metrics())[f'datafile_sidecar_workers_refusing{{sdk_key="{KEY}"}}'] == 0
        finally:
            app.kill()
            await app.wait()
