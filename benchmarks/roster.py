"""What it takes to read the records of a large fleet from the bus: time, the longest pause of the event loop, CPU, memory.

The records are written by this script, as sidecars write them. Run it with `python -m benchmarks.roster --pods 10000`.
"""

import argparse
import asyncio
import contextlib
import resource
import time
from statistics import median

import msgspec

from datafile_sidecar.bus.fleet_reader import fleet_reader
from datafile_sidecar.bus.fleet_store import Entry
from datafile_sidecar.bus.names import fleet_names
from datafile_sidecar.cli.status_output import as_json, as_text
from datafile_sidecar.core import fleet_record, fleet_roster
from datafile_sidecar.core.fleet_record import FleetRecord, WorkerGroup
from datafile_sidecar.core.fleet_roster import Excuses
from datafile_sidecar.core.wait_target import WaitTarget
from tests.broker import Broker

KEY, ROUNDS, BATCH = "KEY1", 5, 500
RECORD = FleetRecord(
    revision=43,
    target=43,
    generation=0,
    sha256="9e5f0c1d2b3a4f5e" * 4,
    trigger="bus",
    checked="2026-01-31T12:00:00.000Z",
    applied=1_769_860_800.0,
    workers=(WorkerGroup("0a1b2c3d", 17, "checkout-7d9f-x2k4p", 4, 43, "9e5f0c1d2b3a4f5e"),),
)


async def main(pods: int) -> None:
    """Print the figures; the median of five reads."""
    async with Broker() as broker, fleet_reader(broker.url) as reader:
        now = await reader.broker.fleet.time()
        value = fleet_record.encode(msgspec.structs.replace(RECORD, at=now, every=60.0))
        names = fleet_names(KEY)
        entries = [
            Entry(names, f"checkout-7d9f-{number:05}/{number:016x}", value, b"1 x", (), is_change=True)
            for number in range(pods)
        ]
        for start in range(0, pods, BATCH):
            await reader.broker.fleet.register(entries[start : start + BATCH])
        took, pauses = list[float](), list[float]()
        reading = await reader.read(KEY)
        for _ in range(ROUNDS):
            longest = [0.0]
            watching = asyncio.create_task(_watch(longest))
            started = time.monotonic()
            reading = await reader.read(KEY)
            took.append(time.monotonic() - started)
            pauses.append(longest[0])
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching
        started = time.process_time()
        target, answers = WaitTarget(KEY, 43), fleet_roster.responses(reading.roster, Excuses())
        assert not target.lagging(answers)
        judged = time.process_time() - started
        started = time.process_time()
        as_text(answers, target, None)
        as_json(answers, target)
        shown = time.process_time() - started
    print(f"{pods:,} pods, records of {len(value)} bytes")
    print(f"read {1000 * median(took):.0f} ms, the loop held up for {1000 * median(pauses):.1f} ms")
    print(f"judged in {1000 * judged:.0f} ms of CPU, shown as text and JSON in {1000 * shown:.0f} ms")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


async def _watch(longest: list[float]) -> None:
    while True:
        started = time.monotonic()
        await asyncio.sleep(0.001)
        longest[0] = max(longest[0], time.monotonic() - started)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pods", type=int, default=10_000)
    asyncio.run(main(parser.parse_args().pods))
