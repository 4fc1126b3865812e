"""Fork again and again while revisions fly, and see that no child keeps its dead parent on the list: `make forks`.

Half of the children use the watcher, and some outlive the parent, which is killed. The sidecar must know every process that
lives and uses the watcher, and none that is dead.
"""

import argparse
import asyncio
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from datafile_client import OptimizelyWatcher
from datafile_sidecar.cli.simulator import Simulator
from tests.datafiles import minimal
from tests.running import RunningSidecar

KEY = "KEY1"
_SETTLED_WITHIN_S = 20


def app(forks: int, seed: int) -> None:
    """Fork one child after the other beside a running watcher. Print the process ids that live on, then wait for the end."""
    chosen = random.Random(seed)
    watcher = OptimizelyWatcher(sdk_key=KEY)
    watcher.start()
    left: dict[int, bool] = {}
    for _ in range(forks):
        uses, lives = chosen.random() < 0.5, chosen.random() < 0.02
        child = os.fork()
        if not child:
            _live(watcher, uses=uses, seconds=600 if lives else chosen.random() * 0.01)
        if lives:
            left[child] = uses
        else:
            os.waitpid(child, 0)
    using = [os.getpid(), *(pid for pid, uses in left.items() if uses)]
    print(*using, flush=True)
    sys.stdin.readline()
    # The children outlive the parent, which is killed: nothing that they have inherited may speak for it.
    print(*left, flush=True)
    os.kill(os.getpid(), 9)


def _live(watcher: OptimizelyWatcher, *, uses: bool, seconds: float) -> None:
    """What a child does."""
    os.closerange(0, 2)  # whoever reads the parent's output shall see its end
    try:
        if uses:
            assert watcher.revision
        time.sleep(seconds)
    finally:
        os._exit(0)


async def run(forks: int, seed: int) -> None:
    """Run it beside a sidecar that publishes all the time. Raises AssertionError with what the sidecar says otherwise."""
    with tempfile.TemporaryDirectory() as directory:
        async with (
            Simulator({KEY: minimal(1)}, secret=b"s") as optimizely,
            RunningSidecar(
                Path(directory), sdk_keys=KEY, url_template=optimizely.template, webhook_secrets="s", poll_interval_s=0
            ) as sidecar,
        ):
            optimizely.webhook_urls = [sidecar.webhook_url]
            command = (sys.executable, "-m", "tests.forks", "--app", "--forks", str(forks), "--seed", str(seed))
            process = await asyncio.create_subprocess_exec(
                *command,
                env={"DATAFILE_DIR": directory},
                cwd=Path(__file__).parents[1],
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
            assert process.stdout
            assert process.stdin
            left: list[int] = []
            try:
                told = asyncio.create_task(process.stdout.readline())
                revision = 1
                while not told.done():
                    revision += 1
                    await optimizely.publish(KEY, minimal(revision))
                    await asyncio.sleep(0.02)
                using = [int(pid) for pid in (await told).split()]
                assert using, "the app ended"
                await _until_known(sidecar, using, revision)
                process.stdin.write(b"\n")
                left = [int(pid) for pid in (await process.stdout.readline()).split()]
                await process.wait()
                await _until_known(sidecar, using[1:], revision)
            finally:
                for pid in left:
                    os.kill(pid, 9)
                if process.returncode is None:
                    process.kill()
                    await process.wait()
            await _until_known(sidecar, [], revision)


async def _until_known(sidecar: RunningSidecar, pids: list[int], revision: int) -> None:
    """Wait until exactly these processes use the revision, as the sidecar says, and none more holds a lock."""
    wanted: dict[str, Any] = {"using": sorted((pid, revision) for pid in pids), "unreported": [], "presence": "locks"}
    ends_at, found = time.monotonic() + _SETTLED_WITHIN_S, dict[str, Any]()
    while found != wanted:
        assert time.monotonic() < ends_at, f"wanted {wanted}, found {found}"
        status = await sidecar.status()
        workers, about = status["keys"][KEY]["workers"], status["workers"]
        found = {
            "using": sorted((worker["pid"], worker["revision"]) for worker in workers),
            "unreported": about["unreported"],
            "presence": about["presence"],
        }
        await asyncio.sleep(0.05)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.forks", description=__doc__)
    parser.add_argument("--app", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--forks", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if options.app:
        app(options.forks, options.seed)
    else:
        began = time.monotonic()
        asyncio.run(run(options.forks, options.seed))
        print(
            f"{options.forks} forks (seed {options.seed}) in {time.monotonic() - began:.0f} s: each process is known, no dead one"
        )
