"""A fleet on a bus under random faults, and each yes of `status` held against the truth: `make fleet-faults`.

Sidecars are killed and stopped, workers too, pods are cut off from the broker, and the broker hangs or comes back empty. The truth
is known without any of them: each worker writes down which revision it uses before it reports that. A yes while a worker that
lives uses an older revision is a false yes, and fails the run. When nothing is wrong any more, the yes has to come.
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
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Self

from datafile_sidecar.cli.simulator import Simulator
from datafile_sidecar.cli.status_bus import BusStatusClient
from datafile_sidecar.core.wait_target import WaitTarget
from datafile_sidecar.volume.directory_locks import DirectoryLocks
from tests.broker import Broker
from tests.datafiles import minimal
from tests.running import RunningSidecar

KEY = "KEY1"
YES_WITHIN_S = 5.0
_SLACK = 4
"""The machine may have much else to do."""
_CALM_EVERY_S = 10.0
_KNOWN_AFTER_S = 0.5
_ROOT = Path(__file__).parents[1]


class Network:
    """A proxy to the broker that can hold back every byte and every new connection, as a network does that is cut: none is lost."""

    def __init__(self, port: int) -> None:
        self.port = 0
        self._to = port
        self._open = asyncio.Event()
        self._open.set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def is_cut(self) -> bool:
        """Whether nothing gets through."""
        return not self._open.is_set()

    def cut(self) -> None:
        """Let nothing through."""
        self._open.clear()

    def heal(self) -> None:
        """Let everything through, also what was held back."""
        self._open.set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        other: asyncio.StreamWriter | None = None
        try:
            await self._open.wait()
            far, other = await asyncio.open_connection("127.0.0.1", self._to)
            pumps = [asyncio.create_task(self._pump(*ends)) for ends in ((reader, other), (far, writer))]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        except (OSError, asyncio.CancelledError):  # asyncio reports a cancelled handler as an error
            pass
        finally:
            self._tasks.discard(task)
            writer.transport.abort()
            if other is not None:
                other.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            data = await reader.read(16384)
            await self._open.wait()
            if not data:
                return
            writer.write(data)
            await writer.drain()


class Pod:
    """A sidecar, its way to the broker, and its workers, which write down what they use."""

    def __init__(self, directory: Path, name: str, settings: dict[str, object], network: Network) -> None:
        self.network = network
        self.sidecar: RunningSidecar | None = None
        self.is_stopped = False
        self.workers: dict[int, asyncio.subprocess.Process] = {}
        self.stopped: set[int] = set()
        self._name = name
        self._volume, self._truth = directory / "volume", directory / "truth"
        self._truth.mkdir(parents=True)
        self._volume.mkdir()
        with contextlib.closing(DirectoryLocks.open(self._volume)) as locks:
            locks.vouch()  # no worker is there yet, so the first sidecar need not wait for any
        self._settings = settings

    async def start_sidecar(self, stack: AsyncExitStack) -> None:
        """Start the sidecar on this volume, or another after one was killed."""
        sidecar = RunningSidecar(
            self._volume, ready=False, bus_url=f"redis://127.0.0.1:{self.network.port}", **self._settings
        )
        sidecar.environment["HOSTNAME"] = self._name
        self.sidecar = await stack.enter_async_context(sidecar)

    async def kill_sidecar(self) -> None:
        """Kill it."""
        if sidecar := self.sidecar:
            self.sidecar, self.is_stopped = None, False
            await sidecar.kill()

    def stop_sidecar(self, number: signal.Signals) -> None:
        """Stop it, or let it go on."""
        if self.sidecar:
            os.kill(self.sidecar.pid, number)
            self.is_stopped = number == signal.SIGSTOP

    async def start_worker(self) -> None:
        """Start a process of the app."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.presence", "--app", str(self._truth)),
            env={"DATAFILE_DIR": str(self._volume)},
            cwd=_ROOT,
            stdin=asyncio.subprocess.PIPE,
        )
        self.workers[process.pid] = process

    def signal(self, pid: int, number: signal.Signals) -> None:
        """Stop a worker, let it go on, or kill it."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        self.stopped = self.stopped - {pid} | ({pid} if number == signal.SIGSTOP else set())

    async def end(self) -> None:
        """Kill the workers."""
        for pid, process in self.workers.items():
            if process.returncode is None:
                self.signal(pid, signal.SIGKILL)
            await process.wait()

    def living(self) -> list[int]:
        """All workers that live, stopped ones too."""
        return [pid for pid, process in self.workers.items() if process.returncode is None]

    def uses(self, pid: int) -> int | None:
        """The revision that a worker has written down, None before its first."""
        with contextlib.suppress(FileNotFoundError):
            return int((self._truth / str(pid)).read_text() or 0)
        return None


class Trouble:
    """A fleet, what is done to it, and what is true of it."""

    def __init__(
        self, broker: Broker, optimizely: Simulator, pods: list[Pod], stack: AsyncExitStack, seed: int
    ) -> None:
        self.counts = Counter[str]()
        self.yes_after_s: list[float] = []
        self._broker = broker
        self._optimizely = optimizely
        self._pods = pods
        self._stack = stack
        self._random = random.Random(seed)
        self._revision = 1
        self._is_hung = False
        self._used_since: dict[int, float] = {}

    async def run(self, seconds: float) -> None:
        """Make trouble for so long, with calm moments in between. Raises AssertionError at a false yes, or when none comes."""
        ends_at = time.monotonic() + seconds
        try:
            await asyncio.gather(*(pod.start_sidecar(self._stack) for pod in self._pods))
            await asyncio.gather(*(pod.start_worker() for pod in self._pods))
            await self._calm_down(within_s=60)
            self.yes_after_s.clear()  # a first sidecar waits for workers that it can't know
            while time.monotonic() < ends_at:
                async with asyncio.TaskGroup() as tasks:
                    checking = tasks.create_task(self._check_for_ever())
                    trouble_until = time.monotonic() + _CALM_EVERY_S
                    while time.monotonic() < trouble_until:
                        await self._trouble()
                        await asyncio.sleep(self._random.random() * 0.6)
                    checking.cancel()
                await self._calm_down(YES_WITHIN_S * _SLACK)
        finally:
            self._broker.go_on()
            for pod in self._pods:
                await pod.end()

    # What is done

    async def _trouble(self) -> None:
        pod = self._random.choice(self._pods)
        actions: dict[Callable[[Pod], Awaitable[None]], float] = {
            self._flip: 6,
            self._kill_sidecar: 1.5,
            self._stop_sidecar: 1,
            self._continue_sidecar: 1,
            self._stop_worker: 2,
            self._continue_worker: 2,
            self._replace_worker: 0.5,
            self._cut_network: 1,
            self._heal_network: 1,
            self._restart_broker: 0.5,
            self._hang_broker: 0.4,
            self._continue_broker: 0.6,
        }
        [action] = self._random.choices(list(actions), list(actions.values()))
        self.counts[getattr(action, "__name__", "").lstrip("_")] += 1
        await action(pod)

    async def _flip(self, pod: Pod) -> None:
        self._revision += 1
        self._optimizely.put(KEY, minimal(self._revision))
        if pod.sidecar and not pod.is_stopped:
            self._optimizely.webhook_urls = [pod.sidecar.webhook_url]
            with contextlib.suppress(Exception):
                async with asyncio.timeout(2):
                    await self._optimizely.announce(KEY, self._revision)

    async def _kill_sidecar(self, pod: Pod) -> None:
        await pod.kill_sidecar()
        await asyncio.sleep(self._random.random() * 0.5)
        await pod.start_sidecar(self._stack)

    async def _stop_sidecar(self, pod: Pod) -> None:
        pod.stop_sidecar(signal.SIGSTOP)

    async def _continue_sidecar(self, pod: Pod) -> None:
        pod.stop_sidecar(signal.SIGCONT)

    async def _stop_worker(self, pod: Pod) -> None:
        if living := pod.living():
            pod.signal(self._random.choice(living), signal.SIGSTOP)

    async def _continue_worker(self, pod: Pod) -> None:
        for pid in pod.stopped:
            pod.signal(pid, signal.SIGCONT)
            break

    async def _replace_worker(self, pod: Pod) -> None:
        if living := pod.living():
            pod.signal(self._random.choice(living), signal.SIGKILL)
        await pod.start_worker()

    async def _cut_network(self, pod: Pod) -> None:
        pod.network.cut()

    async def _heal_network(self, pod: Pod) -> None:
        pod.network.heal()

    async def _restart_broker(self, _: Pod) -> None:
        await self._broker.kill()
        await asyncio.sleep(self._random.random())
        await self._broker.start()
        self._is_hung = False

    async def _hang_broker(self, _: Pod) -> None:
        self._broker.hang()
        self._is_hung = True

    async def _continue_broker(self, _: Pod) -> None:
        self._broker.go_on()
        self._is_hung = False

    async def _calm_down(self, within_s: float) -> None:
        self._broker.go_on()
        for pod in self._pods:
            pod.network.heal()
            if pod.is_stopped:
                pod.stop_sidecar(signal.SIGCONT)
            for pid in list(pod.stopped):
                pod.signal(pid, signal.SIGCONT)
            if not pod.living():
                await pod.start_worker()
        await self._flip(self._pods[0])
        began, said = time.monotonic(), [""]
        while said:
            assert time.monotonic() < began + within_s, f"nothing is wrong any more, and still: {said}"
            said = await self._check(within_s)
        self.yes_after_s.append(time.monotonic() - began)

    # What is true

    def _behind(self, pids: set[int], wanted: int) -> dict[int, int]:
        used = {pid: pod.uses(pid) for pod in self._pods for pid in pod.living() if pid in pids}
        return {pid: revision for pid, revision in used.items() if revision is not None and revision < wanted}

    def _known(self) -> set[int]:
        """The workers that have used a revision for a moment."""
        now = time.monotonic()
        for pod in self._pods:
            for pid in pod.living():
                if pid not in self._used_since and pod.uses(pid) is not None:
                    self._used_since[pid] = now
        return {pid for pid, since in self._used_since.items() if now - since > _KNOWN_AFTER_S}

    # What `status` says

    async def _check_for_ever(self) -> None:
        while True:
            if not await self._check(self._random.random() * 3):
                await asyncio.sleep(0.05)

    async def _check(self, timeout_s: float) -> list[str]:
        """Wait for the revision. Return who lags, as `status` says it. Raises AssertionError at a false yes."""
        wanted, known = self._revision, self._known()
        answers, target = await BusStatusClient(self._broker.url, [KEY]).wait(WaitTarget(KEY, wanted), timeout_s)
        if said := target.lagging(answers):
            self.counts["no"] += 1
            await asyncio.sleep(0.05)
            return said
        self.counts["yes"] += 1
        behind = self._behind(known, wanted)
        assert not behind, f"a false yes at revision {wanted}: {behind} (pid: revision) live; answers: {answers}"
        return []


async def run(seconds: float, seed: int, pods: int = 3) -> Trouble:
    """Run it. Raises AssertionError when `status` is wrong; returns what was done."""
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        broker = await stack.enter_async_context(Broker())
        optimizely = await stack.enter_async_context(Simulator({KEY: minimal(1)}, secret=b"s"))
        settings: dict[str, object] = {
            "sdk_keys": KEY,
            "url_template": optimizely.template,
            "webhook_secrets": "s",
            "poll_interval_s": 1,
        }
        fleet = []
        for number in range(pods):
            network = await stack.enter_async_context(Network(broker.port))
            # Two pods have one name, as those of two StatefulSets in two clusters.
            fleet.append(Pod(directory / str(number), f"pod-{number // 2}", settings, network))
        trouble = Trouble(broker, optimizely, fleet, stack, seed)
        await trouble.run(seconds)
    return trouble


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.fleet_faults", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pods", type=int, default=30)
    options = parser.parse_args()
    done = asyncio.run(run(options.seconds, options.seed, options.pods))
    print(f"no false yes in {options.seconds:g} s (seed {options.seed}): {dict(done.counts)}")
    print("yes after the last fault (s):", *(f"{took_s:.1f}" for took_s in sorted(done.yes_after_s)))
