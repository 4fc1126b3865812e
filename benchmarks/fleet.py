"""What a flip and an hour cost as the fleet grows: requests to the CDN, traffic of the bus, relay posts, time to the last pod.

Fleets that this machine carries are really run, sidecar by sidecar, on a real broker; the larger ones are counted on paper, by
the same formulas that the small ones are held to. Run it with `python -m benchmarks.fleet --pods 10 40`.
"""

import argparse
import asyncio
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.plot import growth
from tests.broker import Broker
from tests.datafiles import realistic
from tests.fleet import KEY, Fleet

FLIPS = 10
ON_PAPER = (10, 100, 1_000, 10_000)
WAYS = ("bus", "peers", "polling")
HEAD = (
    "| pods | way | CDN fetches | bus commands | bus messages | bus KiB out | relay posts | last pod, ms | polls an hour |\n"
    "|---|---|---|---|---|---|---|---|---|"
)
PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
PLOTS = PAGE.parent / "performance"
INTERVAL_S = 60
COMMANDS, MESSAGE_KIB = 13, 0.65
RECORD_COMMANDS, RECORD_KIB = 8, 0.5
"""Of what each pod tells the fleet after a flip: commands, and what the broker answers. At rest it does so every 5 s."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one flip in a fleet of so many pods, and of an hour of polling every minute."""

    pods: int
    how: str
    fetches: float
    commands: float
    messages: float
    bus_kib: float
    relays: float
    last_pod_ms: float | None
    polls_an_hour: float

    def row(self) -> str:
        """One line of the table."""
        last = "" if self.last_pod_ms is None else f"{self.last_pod_ms:.0f}"
        cells = (f"{self.pods:,}", self.how, f"{self.fetches:,.0f}", f"{self.commands:,.0f}", f"{self.messages:,.0f}")
        return (
            "| "
            + " | ".join((*cells, f"{self.bus_kib:,.0f}", f"{self.relays:,.0f}", last, f"{self.polls_an_hour:,.0f}"))
            + " |"
        )


def on_paper(pods: int, how: str) -> Cost:
    """What the design says: with a bus, one pod fetches and writes; the message brings the change to all, and all tell it."""
    if how == "bus":
        kib = pods * (MESSAGE_KIB + RECORD_KIB)
        return Cost(pods, how, 1, COMMANDS + pods * RECORD_COMMANDS, pods, kib, 0, None, 3600 / INTERVAL_S)
    relays = pods - 1 if how == "peers" else 0
    return Cost(pods, how, pods, 0, 0, 0, relays, None, pods * 3600 / INTERVAL_S)


async def measured(pods: int, size_kib: int) -> Cost:
    """A real fleet on a real broker: the cost of a flip."""
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        broker = await stack.enter_async_context(Broker())
        fleet = await stack.enter_async_context(Fleet(directory, [{}] * pods, bus_url=broker.url))
        await fleet.until_connected(within_s=60)
        await asyncio.sleep(1)
        last = []
        before, at_rest = await counters(broker), len(fleet.optimizely.requests)
        begun = asyncio.get_running_loop().time()
        for revision in range(2, 2 + FLIPS):
            await fleet.flip(revision, fleet.pods[revision % pods], content=realistic(size_kib, revision, KEY))
            last.append(1000 * max(await fleet.until_published(revision, within_s=60)))
        await asyncio.sleep(0.2)
        after, took_s = await counters(broker), asyncio.get_running_loop().time() - begun
        per_flip = {name: (after[name] - before[name]) / FLIPS for name in after}
        pings = pods * 2 * took_s / 2 / FLIPS
        return Cost(
            pods,
            "bus, measured",
            (len(fleet.optimizely.requests) - at_rest) / FLIPS,
            per_flip["commands"] - pings,
            pods,
            per_flip["output_kib"],
            0,
            median(last),
            3600 / INTERVAL_S,
        )


async def counters(broker: Broker) -> dict[str, float]:
    """What the broker has counted since it began."""
    stats = await broker.client().info("stats")
    return {"commands": stats["total_commands_processed"], "output_kib": stats["total_net_output_bytes"] / 1024}


async def main(sizes: Sequence[int], size_kib: int) -> list[Cost]:
    """Print the table; what stands in it."""
    print(f"A datafile of {size_kib} KiB; per flip, but for the last column.\n")
    print(HEAD)
    costs = []
    for pods in sizes:
        cost = await measured(pods, size_kib)
        print(cost.row(), flush=True)
        expected = on_paper(pods, "bus")
        if not (cost.fetches == expected.fetches and 0.7 < cost.commands / expected.commands < 1.3):
            print(f"  on paper that should be: {expected.row()}")
        costs.append(cost)
    for how in WAYS:
        for pods in ON_PAPER:
            costs.append(on_paper(pods, how))
            print(costs[-1].row())
    return costs


def write(costs: Sequence[Cost]) -> None:
    """Put table and plot into docs/performance.md."""
    counted = {how: [cost for cost in costs if cost.how == how] for how in WAYS}
    curves = {name: {cost.pods: cost.polls_an_hour for cost in some} for name, some in counted.items()}
    curves["peers and polling"] = curves.pop("peers")
    del curves["polling"]
    curves["last pod, ms (measured)"] = {cost.pods: cost.last_pod_ms for cost in costs if cost.last_pod_ms}
    (PLOTS / "fleet.svg").write_text(growth(curves, "Polls of the CDN in an hour, and the time to the last pod"))
    begin, end = "<!-- fleet -->\n", "<!-- fleet end -->"
    text = PAGE.read_text()
    before, _, rest = text.partition(begin)
    table = "\n".join([HEAD, *(cost.row() for cost in costs)])
    PAGE.write_text(f"{before}{begin}{table}\n{end}{rest.partition(end)[2]}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pods", type=int, nargs="+", default=[10, 40], help="fleets to run, sidecar by sidecar")
    parser.add_argument("--size-kib", type=int, default=12)
    parser.add_argument("--write", action="store_true", help="write docs/performance.md and its plot anew")
    options = parser.parse_args()
    costs = asyncio.run(main(options.pods, options.size_kib))
    if options.write:
        write(costs)
