"""A fleet through a long, random, seeded story: webhooks anywhere, kills, partitions, a broker that dies, an upstream that lags."""

import asyncio
import os
import random
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from datafile_sidecar.core import datafile
from tests.broker import Broker, Line, needs_redis
from tests.datafiles import minimal
from tests.fleet import KEY, Fleet

PODS = 5
POLL_S = 2
STEPS = int(os.environ.get("FLEET_STEPS", "60"))
SEEDS = [int(os.environ["FLEET_SEED"])] if "FLEET_SEED" in os.environ else [1, 20_260_101]

pytestmark = [pytest.mark.system, needs_redis]


class Reader:
    """Reads each volume over and over, as an app would: every read must find a valid datafile that is not older than the last."""

    def __init__(self, directories: list[Path]) -> None:
        self._files = [directory / f"{KEY}.json" for directory in directories]
        self.reads = 0
        self.seen = [0] * len(directories)

    async def run(self) -> None:
        while True:
            for number, file in enumerate(self._files):
                try:
                    body = file.read_bytes()
                except FileNotFoundError:
                    assert not self.seen[number], f"the file of pod {number} is gone"
                    continue
                revision = datafile.parse(body, KEY).revision
                assert revision >= self.seen[number], f"pod {number} went back from {self.seen[number]} to {revision}"
                self.seen[number] = revision
                self.reads += 1
            await asyncio.sleep(0.003)


class Story:
    """What happens to the fleet, one random step after the other."""

    def __init__(self, fleet: Fleet, broker: Broker, lines: list[Line], dice: random.Random) -> None:
        self.fleet, self.broker, self.lines, self.dice = fleet, broker, lines, dice
        self.newest = 1
        self.is_hung = False
        self.steps_done: list[str] = []
        self.alive = list(fleet.pods)

    async def step(self) -> None:
        """One of the things that happen, or a pause."""
        steps: list[Callable[[], Awaitable[None]]] = [self.flip, self.flip, self.flip, self.pause]
        steps += [self.kill_and_start, self.partition, self.mend, self.broker_dies, self.broker_hangs, self.lag]
        chosen = self.dice.choice(steps)
        self.steps_done.append(chosen.__name__)
        await chosen()
        await asyncio.sleep(self.dice.choice([0, 0, 0.05, 0.3]))

    async def flip(self) -> None:
        """A flag is flipped; the webhook reaches no pod, one, or two."""
        self.newest += 1
        self.fleet.optimizely.put(KEY, minimal(self.newest))
        pods = self.dice.sample(self.alive, min(len(self.alive), self.dice.choice([0, 1, 1, 1, 2])))
        self.fleet.optimizely.webhook_urls = [pod.webhook_url for pod in pods]
        await self.fleet.optimizely.announce(KEY, self.newest)

    async def pause(self) -> None:
        """Nothing happens."""
        await asyncio.sleep(self.dice.choice([0.2, 1.0]))

    async def kill_and_start(self) -> None:
        """SIGKILL to a pod, which comes back on its volume."""
        number = self.dice.randrange(PODS)
        await self.fleet.replace(number)
        self.alive = list(self.fleet.pods)

    async def partition(self) -> None:
        """The line between a pod and the broker goes dead."""
        self.dice.choice(self.lines).cut()

    async def mend(self) -> None:
        """All lines work again."""
        for line in self.lines:
            line.mend()

    async def broker_dies(self) -> None:
        """SIGKILL to the broker, which comes back empty."""
        await self.broker.kill()
        await asyncio.sleep(self.dice.choice([0, 0.3]))
        await self.broker.start()
        self.is_hung = False

    async def broker_hangs(self) -> None:
        """SIGSTOP to the broker, or SIGCONT."""
        self.broker.go_on() if self.is_hung else self.broker.hang()
        self.is_hung = not self.is_hung

    async def lag(self) -> None:
        """CDN and origin show a new revision so much after its webhook."""
        self.fleet.optimizely.cdn_lag_s = self.dice.choice([0, 0.5, 3])
        self.fleet.optimizely.origin_lag_s = self.dice.choice([0, 0.5])

    async def end_well(self) -> None:
        """The last fault is over."""
        self.fleet.optimizely.cdn_lag_s = self.fleet.optimizely.origin_lag_s = 0
        await self.mend()
        if self.is_hung:
            self.broker.go_on()


@pytest.mark.timeout(180)
@pytest.mark.parametrize("seed", SEEDS)
async def test_a_fleet_converges_whatever_happened(seed: int, tmp_path: Path) -> None:
    """Two poll intervals after the last fault, all have the newest; none ever went back, every file was valid at every read."""
    print(f"FLEET_SEED={seed} FLEET_STEPS={STEPS}")
    async with AsyncExitStack() as stack:
        broker = await stack.enter_async_context(Broker())
        lines = [await stack.enter_async_context(Line(broker.port)) for _ in range(PODS)]
        fleet = await stack.enter_async_context(
            Fleet(tmp_path, [{"bus_url": line.url} for line in lines], poll_interval_s=POLL_S)
        )
        reader = Reader([pod.directory for pod in fleet.pods])
        reading = asyncio.create_task(reader.run())
        story = Story(fleet, broker, lines, random.Random(seed))
        try:
            for _ in range(STEPS):
                await story.step()
            await story.end_well()
            took = await fleet.until_published(story.newest, within_s=2 * POLL_S * 1.1 + 1)
        except BaseException as problem:
            problem.add_note(f"seed {seed}: {', '.join(story.steps_done)}")
            raise
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
        if not reading.cancelled():
            reading.result()
        print(f"revision {story.newest} everywhere after {max(took):.2f} s; {reader.reads} reads")
        assert reader.reads > 1000
