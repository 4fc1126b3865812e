"""A flip over the bus, in a real fleet on a real broker: how long until the last file, and what the broker sends for it.

With --beside, another version of the sidecar takes turns with this one: `--beside ../other-checkout/sidecar/src`. Run it with
`python -m benchmarks.bus`.
"""

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from datafile_sidecar.bus import compression
from datafile_sidecar.bus.forms import CURRENT, EARLIER
from tests.broker import Broker
from tests.datafiles import realistic
from tests.fleet import KEY, Fleet

PODS, SIZE_KIB, FLIPS = 5, 736, 40
LOOK_EVERY_S = 0.001
WITHIN_S = 30
HEAD = "| version | last file, ms (p50) | (slowest) | KiB out of the broker, a pod and flip |\n|---|---|---|---|"


@dataclass(slots=True)
class Way:
    """One version in a fleet of its own, and what it took for each flip."""

    name: str
    fleet: Fleet
    broker: Broker
    last_ms: list[float] = field(default_factory=list)
    sent_kib: list[float] = field(default_factory=list)

    async def flip(self, revision: int, content: bytes) -> None:
        """Flip once, at one pod after the other."""
        pods = self.fleet.pods
        waiting = {pod.directory / f"{KEY}.json": inode(pod.directory / f"{KEY}.json") for pod in pods}
        before, begun = await sent_kib(self.broker), asyncio.get_running_loop().time()
        await self.fleet.flip(revision, pods[revision % len(pods)], content=content)
        async with asyncio.timeout(WITHIN_S):
            while waiting := {path: was for path, was in waiting.items() if inode(path) == was}:
                await asyncio.sleep(LOOK_EVERY_S)
        self.last_ms.append(1000 * (asyncio.get_running_loop().time() - begun))
        self.sent_kib.append((await sent_kib(self.broker) - before) / len(pods))

    def row(self) -> str:
        """One line of the table."""
        last = f"{median(self.last_ms):.0f} | {max(self.last_ms):.0f}"
        return f"| {self.name} | {last} | {median(self.sent_kib):.1f} |"


def inode(path: Path) -> int:
    """Which file has this name now: a publication gives it another one."""
    return path.stat().st_ino


async def sent_kib(broker: Broker) -> float:
    """What the broker has sent."""
    return int((await broker.client().info("stats"))["total_net_output_bytes"]) / 1024


def flipped(revision: int, size_kib: int) -> bytes:
    """A datafile in which one flag is on at every even revision."""
    parsed = json.loads(realistic(size_kib, revision, KEY))
    parsed["rollouts"][len(parsed["rollouts"]) // 2]["experiments"][0]["status"] = ("Paused", "Running")[revision % 2]
    return json.dumps(parsed, separators=(",", ":"), ensure_ascii=False).encode()


def sizes() -> None:
    """Print how large changes and values are."""
    print(
        "| datafile, KiB | the change of one flag, bytes | as one value | deflated, as in the first version |\n|---|---|---|---|"
    )
    for size_kib in (12, 736, 1500, 8000):
        base, body = flipped(2, size_kib), flipped(3, size_kib)
        change = len(compression.change(base, body))
        print(f"| {size_kib:,} | {change:,} | {len(CURRENT.compress(body)):,} | {len(EARLIER.compress(body)):,} |")


async def main(pods: int, size_kib: int, flips: int, beside: Sequence[Path]) -> None:
    """Let the versions take turns, and print the table."""
    async with AsyncExitStack() as stack:
        ways = []
        for source in (None, *beside):
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            broker = await stack.enter_async_context(Broker())
            fleet = Fleet(directory, [{}] * pods, bus_url=broker.url)
            fleet.python_path = source
            await stack.enter_async_context(fleet)
            await fleet.until_connected(within_s=60)
            ways.append(Way(str(source or "this one"), fleet, broker))
        for revision in range(2, flips + 3):
            content = flipped(revision, size_kib)
            for way in ways:
                await way.flip(revision, content)
        print(
            f"{pods} pods, a datafile of {size_kib} KiB, one flag flipped, {flips} times after one warm-up.\n\n{HEAD}"
        )
        for way in ways:
            del way.last_ms[0], way.sent_kib[0]
            print(way.row())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pods", type=int, default=PODS)
    parser.add_argument("--size-kib", type=int, default=SIZE_KIB)
    parser.add_argument("--flips", type=int, default=FLIPS)
    parser.add_argument("--beside", type=Path, nargs="*", default=[], help="the sources of another version")
    parser.add_argument("--sizes", action="store_true", help="only print how large changes and values are")
    options = parser.parse_args()
    if options.sizes:
        sizes()
        sys.exit()
    asyncio.run(main(options.pods, options.size_kib, options.flips, options.beside))
