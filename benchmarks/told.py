"""How soon a process uses what was published: told by the sidecar, and by events of the file system, in the same run.

Two processes of one app watch one directory. Both report to the sidecar; one of them does not listen to it, as clients did not
before the sidecar spoke. Run it with `python -m benchmarks.told`.
"""

import argparse
import asyncio
import json
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.end_to_end import KEY, SECRET, SIZES, datafile, flags_for
from benchmarks.sidecar import cpu_s
from benchmarks.table import Row, table
from datafile_client import OptimizelyWatcher
from datafile_client._sidecar_link import SidecarLink
from datafile_sidecar.cli.simulator import Simulator
from datafile_sidecar.cli.status_client import Endpoints, StatusClient
from datafile_sidecar.core.fleet_status import SidecarStatus
from datafile_sidecar.core.wait_target import WaitTarget
from demo.app import NO_EVENTS, decide
from tests.running import RunningSidecar

SIDES = ("told", "by events")
EVENTS = "the file watch alone"
ASKING = "asking every 250 ms"


def work(side: str) -> None:
    """Print a line for each new instance, after one decision by it. Ends when its input ends."""
    if side == "by events":
        SidecarLink.is_told = property(lambda _: False)  # type: ignore[assignment, method-assign]
        SidecarLink.read = lambda *_: set()  # type: ignore[method-assign]
    with OptimizelyWatcher(sdk_key=KEY, optimizely_options={"default_decide_options": NO_EVENTS}) as watcher:

        def report(optimizely: object) -> None:
            revision = int(decide(watcher.optimizely).variables["revision"])
            print(json.dumps([revision, time.time()]), flush=True)

        watcher.on_update(report)
        sys.stdin.read()


class Worker:
    """One of the two processes, and when it first decided by each revision, in Unix seconds."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.pid = process.pid
        self.decided: dict[int, float] = {}
        self._process = process
        self._reading = asyncio.create_task(self._read())

    async def until(self, revision: int) -> None:
        """Wait until it has decided by this revision."""
        async with asyncio.timeout(30):
            while revision not in self.decided:
                await asyncio.sleep(0.001)

    async def end(self) -> None:
        """End it."""
        self._process.kill()
        await self._process.wait()
        await self._reading

    async def _read(self) -> None:
        assert self._process.stdout
        while line := await self._process.stdout.readline():
            revision, at = json.loads(line)
            self.decided[revision] = at


async def measure(flips: int, rest_s: float) -> dict[str, dict[str, list[float]]]:
    """By side: the ms from the rename to its use, and from webhook to decision, for each flip; the % of a core at rest."""
    flags = flags_for(SIZES["12 KiB"])
    with tempfile.TemporaryDirectory() as directory:
        async with (
            Simulator({KEY: datafile(flags, 1)}, secret=SECRET.encode()) as optimizely,
            RunningSidecar(
                Path(directory), sdk_keys=KEY, webhook_secrets=SECRET, url_template=optimizely.template
            ) as sidecar,
        ):
            optimizely.webhook_urls = [sidecar.webhook_url]
            workers = {side: await _start(side, directory) for side in SIDES}
            try:
                for worker in workers.values():
                    await worker.until(1)
                sent = {}
                for revision in range(2, flips + 2):
                    await asyncio.sleep(0.03 + 0.03 * random.random())
                    optimizely.put(KEY, datafile(flags, revision))
                    sent[revision] = time.time()
                    await optimizely.announce(KEY, revision)
                    for worker in workers.values():
                        await worker.until(revision)
                yes = await _yes(range(flips + 2, flips + 2 + flips // 2), optimizely, sidecar, list(workers.values()))
                before = {side: cpu_s(worker.pid) for side, worker in workers.items()}
                await asyncio.sleep(rest_s)
                rest = {side: 100 * (cpu_s(worker.pid) - before[side]) / rest_s for side, worker in workers.items()}
                applied = [line for line in sidecar.logs if line["event"] == "datafile.applied"]
            finally:
                for worker in workers.values():
                    await worker.end()
    return {
        side: {
            "used": [1000 * line["apply_s"] for line in applied if line["pid"] == worker.pid],
            "decided": [1000 * (worker.decided[revision] - at) for revision, at in sent.items()],
            "rest": [rest[side]],
            "yes": yes[side],
        }
        for side, worker in workers.items()
    }


async def _yes(
    revisions: range, optimizely: Simulator, sidecar: RunningSidecar, workers: list[Worker]
) -> dict[str, list[float]]:
    """The ms from the moment at which the last worker uses a revision until `status` says so; told, and asking by turns."""
    flags, took = flags_for(SIZES["12 KiB"]), dict[str, list[float]]({side: [] for side in SIDES})
    await StatusClient(Endpoints((sidecar.admin_url,))).wait(WaitTarget(KEY, 1), 30)  # until all workers are known
    is_told, polls = SidecarStatus.is_told, property(lambda _: False)
    for revision in revisions:
        for side, way in zip(SIDES, (is_told, polls), strict=True):
            setattr(SidecarStatus, "is_told", way)  # noqa: B010
            number = 2 * revision + SIDES.index(side)
            client = StatusClient(Endpoints((sidecar.admin_url,)))
            waiting = asyncio.create_task(client.wait(WaitTarget(KEY, number), 30))
            await asyncio.sleep(0.1 + 0.3 * random.random())
            optimizely.put(KEY, datafile(flags, number))
            await optimizely.announce(KEY, number)
            answers, target = await waiting
            at = time.time()
            if target.lagging(answers):
                raise RuntimeError(f"not confirmed: {target.lagging(answers)}")
            for worker in workers:
                await worker.until(number)
            took[side].append(1000 * (at - max(worker.decided[number] for worker in workers)))
    setattr(SidecarStatus, "is_told", is_told)  # noqa: B010
    return took


async def _start(side: str, directory: str) -> Worker:
    command = (sys.executable, "-m", "benchmarks.told", "--work", side)
    process = await asyncio.create_subprocess_exec(
        *command,
        env={"DATAFILE_DIR": directory},
        cwd=Path(__file__).parents[1],
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    return Worker(process)


def rows(*, quick: bool) -> list[Row]:
    """The rows of the table."""
    sides = asyncio.run(measure(*((5, 2.0) if quick else (200, 60.0))))
    ours, other = (sides[side] for side in SIDES)
    used, decided = (
        [(of(ours[kind]), of(other[kind])) for of in (statistics.median, _p95)] for kind in ("used", "decided")
    )
    use, webhook, rest = (
        "renamed → used by the app, 12 KiB",
        "webhook → decide(), 12 KiB",
        "client beside a sidecar, at rest",
    )
    yes = [(of(ours["yes"]), of(other["yes"])) for of in (statistics.median, _p95)]
    return [
        Row("client", f"{use}, p50", used[0][0], "ms", EVENTS, used[0][1], most=3.0),
        Row("client", f"{use}, p95", used[1][0], "ms", EVENTS, used[1][1], most=10.0),
        Row("client", f"{webhook}, p50", decided[0][0], "ms", EVENTS, decided[0][1], most_ratio=0.5),
        Row("client", f"{webhook}, p95", decided[1][0], "ms", EVENTS, decided[1][1]),
        Row("status", "used by all → `status` says yes, p50", yes[0][0], "ms", ASKING, yes[0][1], most=50.0),
        Row("status", "used by all → `status` says yes, p95", yes[1][0], "ms", ASKING, yes[1][1]),
        Row("client", rest, ours["rest"][0], "% of a core", EVENTS, other["rest"][0], most=0.1),
    ]


def _p95(figures: list[float]) -> float:
    return sorted(figures)[int(0.95 * len(figures))]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    if options.work:
        work(options.work)
    else:
        print(table(rows(quick=options.quick)))
