"""Kill, stop and fork at random, and hold each answer of `status` against the truth: `make presence`.

The truth is known without the sidecar: each process of the app writes down which revision it uses before it reports that. A yes
while a process that lives uses an older revision is a false yes, and fails the run. When nothing is wrong any more, the yes has to
come.
"""

import argparse
import asyncio
import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path

from datafile_client import OptimizelyWatcher
from datafile_client._sidecar_link import Report, SidecarLink
from datafile_sidecar.cli.simulator import Simulator
from datafile_sidecar.cli.status_client import Endpoints, StatusClient
from datafile_sidecar.core.fleet_status import StatusResponse
from datafile_sidecar.core.wait_target import WaitTarget
from tests.datafiles import minimal
from tests.running import RunningSidecar

KEY = "KEY1"
_MOST_PROCESSES = 8
_CALM_EVERY_S = 8.0
_YES_WITHIN_S = 20.0


def app(truth: Path) -> None:
    """Use a watcher, write down the revision of its instance before each report, and fork when told to on standard input."""
    watcher = OptimizelyWatcher(sdk_key=KEY)
    report, written = SidecarLink.update, dict[int, str]()

    def write_and_report(link: SidecarLink, reports: Mapping[str, Report], now: float) -> None:
        config = watcher.optimizely.get_optimizely_config()
        if config and written.get(os.getpid()) != config.revision:
            written[os.getpid()] = config.revision
            _write(truth, config.revision)
        report(link, reports, now)

    SidecarLink.update = write_and_report  # type: ignore[method-assign, assignment]
    watcher.start()
    for _ in sys.stdin:
        if not os.fork():
            os.closerange(0, 2)
            while True:
                time.sleep(600)


def _write(truth: Path, revision: str) -> None:
    part = truth / f".{os.getpid()}"
    part.write_text(revision)
    part.rename(truth / str(os.getpid()))


class Trouble:
    """A sidecar and processes of an app, what is done to them, and what is true of them."""

    def __init__(self, directory: Path, optimizely: Simulator, stack: AsyncExitStack, seed: int) -> None:
        self.counts = Counter[str]()
        self.slowest_yes_s = 0.0
        self._directory, self._truth = directory / "volume", directory / "truth"
        self._truth.mkdir()
        self._optimizely = optimizely
        self._stack = stack
        self._random = random.Random(seed)
        self._revision = 1
        self._sidecar: RunningSidecar | None = None
        self._parents: dict[int, asyncio.subprocess.Process] = {}
        self._stopped: set[int] = set()
        self._known: set[int] = set()

    async def run(self, seconds: float) -> None:
        """Make trouble for so long, with calm moments in between. Raises AssertionError at a false yes, or when none comes."""
        ends_at = time.monotonic() + seconds
        await self._start_sidecar()
        await self._start_process()
        try:
            while time.monotonic() < ends_at:
                async with asyncio.TaskGroup() as tasks:
                    checking = tasks.create_task(self._check_for_ever())
                    trouble_until = min(ends_at, time.monotonic() + _CALM_EVERY_S)
                    while time.monotonic() < trouble_until:
                        await self._trouble()
                        await asyncio.sleep(self._random.random() * 0.5)
                    checking.cancel()
                await self._calm_down()
        finally:
            for pid in self._living():
                os.kill(pid, signal.SIGKILL)
            for process in self._parents.values():
                await process.wait()

    # What is done

    async def _trouble(self) -> None:
        living = self._living()
        actions: dict[Callable[[], Awaitable[None]], float] = {
            self._flip: 5,
            self._start_process: 1 if len(living) < _MOST_PROCESSES else 0,
            self._fork: 2 if len(living) < _MOST_PROCESSES else 0,
            self._stop_process: 2,
            self._continue_process: 2,
            self._kill_process: 1 if len(living) > 1 else 0,
            self._kill_sidecar: 0.5,
            self._end_sidecar: 0.5,
        }
        [action] = self._random.choices(list(actions), list(actions.values()))
        self.counts[getattr(action, "__name__", "").lstrip("_")] += 1
        await action()

    async def _flip(self) -> None:
        self._revision += 1
        self._optimizely.put(KEY, minimal(self._revision))
        if self._random.random() < 0.9:
            await self._optimizely.announce(KEY, self._revision)

    async def _start_process(self) -> None:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.presence", "--app", str(self._truth)),
            env={"DATAFILE_DIR": str(self._directory)},
            cwd=Path(__file__).parents[1],
            stdin=asyncio.subprocess.PIPE,
        )
        self._parents[process.pid] = process

    async def _fork(self) -> None:
        able = [process for pid, process in self._parents.items() if self._lives(pid)]
        process = self._random.choice(able) if able else None
        if process and process.stdin:
            process.stdin.write(b"fork\n")

    async def _stop_process(self) -> None:
        if living := self._living():
            self._signal(self._random.choice(living), signal.SIGSTOP)

    async def _continue_process(self) -> None:
        if self._stopped:
            self._signal(self._random.choice(sorted(self._stopped)), signal.SIGCONT)

    async def _kill_process(self) -> None:
        self._signal(self._random.choice(self._living()), signal.SIGKILL)

    async def _kill_sidecar(self) -> None:
        if self._sidecar:
            await self._sidecar.kill()
            await asyncio.sleep(self._random.random() * 0.5)
            await self._start_sidecar()

    async def _end_sidecar(self) -> None:
        if self._sidecar:
            await self._sidecar.stop()
            await self._start_sidecar()

    async def _start_sidecar(self) -> None:
        self._sidecar = None
        self._sidecar = sidecar = await self._stack.enter_async_context(
            RunningSidecar(
                self._directory,
                sdk_keys=KEY,
                url_template=self._optimizely.template,
                webhook_secrets="s",
                poll_interval_s=5,
            )
        )
        self._optimizely.webhook_urls = [sidecar.webhook_url]

    def _signal(self, pid: int, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        self._stopped = self._stopped - {pid} | ({pid} if number == signal.SIGSTOP else set())

    async def _calm_down(self) -> None:
        for pid in list(self._stopped):
            self._signal(pid, signal.SIGCONT)
        if not self._living():
            await self._start_process()
        began, said = time.monotonic(), [""]
        while said:
            assert time.monotonic() < began + _YES_WITHIN_S, f"nothing is wrong any more, and still: {said}"
            said = await self._check()
        self.slowest_yes_s = max(self.slowest_yes_s, time.monotonic() - began)

    # What is true

    def _living(self) -> list[int]:
        """All processes of the app that have used a revision, or were started by us."""
        pids = {int(one.name) for one in self._truth.iterdir() if one.name.isdigit()} | self._parents.keys()
        return sorted(filter(self._lives, pids))

    def _lives(self, pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
        except (FileNotFoundError, ProcessLookupError):
            return False

    def _uses(self, pid: int) -> int:
        try:
            return int((self._truth / str(pid)).read_text() or 0)
        except FileNotFoundError:
            return 0

    # What `status` says

    async def _check_for_ever(self) -> None:
        while True:
            if not await self._check():
                await asyncio.sleep(0.05)

    async def _check(self) -> list[str]:
        """Ask once. Return who lags, as `status` says it. Raises AssertionError at a false yes."""
        if (sidecar := self._sidecar) is None:
            await asyncio.sleep(0.05)
            return ["the sidecar: it is not there"]
        wanted, before = self._revision, [pid for pid in self._known if self._lives(pid)]
        answers = await StatusClient(Endpoints((sidecar.admin_url,))).ask(5)
        self._known |= _named_in(answers)
        if said := WaitTarget(KEY, wanted).lagging(answers):
            self.counts["no"] += 1
            await asyncio.sleep(0.05)
            return said
        self.counts["yes"] += 1
        behind = {pid: used for pid in before if (used := self._uses(pid)) < wanted and self._lives(pid)}
        assert not behind, f"a false yes at revision {wanted}: {behind} live, and use what is said; answers: {answers}"
        return []


def _named_in(answers: list[StatusResponse]) -> set[int]:
    named = set[int]()
    for status in (answer.status for answer in answers if answer.status):
        named |= {one.pid for one in status.keys[KEY].workers} | {one.pid for one in status.workers.unreported}
    return named


async def run(seconds: float, seed: int) -> Trouble:
    """Run it. Raises AssertionError when `status` is wrong; returns what was done."""
    with tempfile.TemporaryDirectory() as directory:
        async with AsyncExitStack() as stack, Simulator({KEY: minimal(1)}, secret=b"s") as optimizely:
            trouble = Trouble(Path(directory), optimizely, stack, seed)
            try:
                await trouble.run(seconds)
            finally:
                await stack.aclose()
    return trouble


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.presence", description=__doc__)
    parser.add_argument("--app", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if options.app:
        app(options.app)
    else:
        done = asyncio.run(run(options.seconds, options.seed))
        print(f"no false yes in {options.seconds:g} s (seed {options.seed}): {dict(done.counts)}")
        print(f"slowest yes after the trouble: {done.slowest_yes_s:.1f} s")
