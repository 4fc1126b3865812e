"""From a signed webhook to `decide()`, hop by hop, through real processes; and the SDK's own polling beside it, in the same run.

Every process tells wall-clock time of one machine. The polling app asks once a second, which is the least that the SDK takes;
its default is five minutes. Run it with `python -m benchmarks.end_to_end`.
"""

import argparse
import asyncio
import json
import os
import platform
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from optimizely.config_manager import PollingConfigManager
from optimizely.helpers.sdk_settings import OptimizelySdkSettings
from optimizely.optimizely import Optimizely

from benchmarks.table import Row
from datafile_client.testing import make_datafile
from datafile_sidecar.cli.simulator import Simulator
from demo.app import FLAG, NO_EVENTS, decide, report
from tests.running import Decision, RunningApp, RunningSidecar

KEY, SECRET = "benchmark", "benchmark-secret"
SIZES = {"12 KiB": 12 * 1024, "1.2 MiB": 1200 * 1024}
HOPS = (
    "webhook sent → verified",
    "verified → fetched",
    "fetched → published",
    "published → loaded",
    "loaded → decide()",
)
TOTAL, POLLING = "webhook sent → decide()", "the SDK polling at 1 s"
MOST_MS = {"12 KiB": 40, "1.2 MiB": 150}
MOST_OF_POLLING = {"12 KiB": 0.1}
DEFAULT_POLLING_MS = 1000 * 300 / 2
Samples = dict[str, list[float]]


def flags_for(size: int) -> dict[str, Any]:
    """So many flags, with four variables each, that their datafile has about this size in bytes."""
    variables = {f"text-{number}": "A sentence that a product manager may change at any time." for number in range(4)}
    flags = {f"flag-{number:04}": {"on": True, "variables": variables} for number in range(101)}
    few, many = len(make_datafile({"flag-0000": flags["flag-0000"]})), len(make_datafile(flags))
    return {f"flag-{number:04}": flags["flag-0000"] for number in range(1 + 100 * (size - few) // (many - few))}


def datafile(flags: Mapping[str, Any], revision: int) -> bytes:
    """The flag that the app asks for is on at every even revision."""
    asked = {"on": revision % 2 == 0, "variables": {"revision": str(revision)}}
    return make_datafile({**flags, FLAG: asked}, revision=revision, sdk_key=KEY)


async def measure(flags: Mapping[str, Any], flips: int, workers: int) -> Samples:
    """Flip so many times; for each hop, and for both ways as a whole, the ms that each flip took in each worker."""
    with tempfile.TemporaryDirectory() as directory:
        settings = {"sdk_keys": KEY, "webhook_secrets": SECRET, "log_level": "debug"}
        environment = {"DATAFILE_DIR": directory, "DATAFILE_SDK_KEYS": KEY}
        async with (
            Simulator({KEY: datafile(flags, 1)}, secret=SECRET.encode()) as optimizely,
            RunningSidecar(Path(directory), ready=True, url_template=optimizely.template, **settings) as sidecar,
            RunningApp(f"--workers={workers}", **environment) as app,
            RunningApp("--poll", optimizely.template, module="benchmarks.end_to_end") as poller,
        ):
            optimizely.webhook_urls = [sidecar.webhook_url]
            await app.decided_by(1, workers)
            await poller.decided_by(1, 1)
            sent = {}
            for revision in range(2, flips + 2):
                await asyncio.sleep(random.random())  # at any moment of the poller's second
                optimizely.put(KEY, datafile(flags, revision))
                sent[revision] = time.time()
                await optimizely.announce(KEY, revision)
                check(await app.decided_by(revision, workers) + await poller.decided_by(revision, 1))
            passed = sidecar_times(sidecar.logs)
            samples = hops(sent, passed, app.decisions)
            samples[POLLING] = [1000 * (made.decided - sent[made.revision]) for made in poller.decisions[1:]]
            return samples


def check(decisions: list[Decision]) -> None:
    """Figures of wrong decisions are worth nothing."""
    for made in decisions:
        if made.on != (made.revision % 2 == 0):
            raise RuntimeError(f"a worker decided wrongly: {made}")


def sidecar_times(logs: list[dict[str, Any]]) -> dict[int, tuple[float, float, float]]:
    """For each revision, when its webhook was verified, when it was fetched, and when it was published; Unix seconds."""
    verified, passed, fetched = dict[int, float](), dict[int, tuple[float, float, float]](), 0.0
    for line in logs:
        at = datetime.fromisoformat(line["time"]).timestamp()
        if line["event"] == "webhook.accepted":
            verified[line["revision"]] = at
        elif line["event"] == "fetch.succeeded":
            fetched = at
        elif line["event"] == "datafile.published" and line["revision"] in verified:
            passed[line["revision"]] = verified[line["revision"]], fetched, at
    return passed


def hops(
    sent: Mapping[int, float], passed: Mapping[int, tuple[float, float, float]], decisions: list[Decision]
) -> Samples:
    """The ms that each hop took, for each decision by a revision that was sent."""
    samples: Samples = {hop: [] for hop in (*HOPS, TOTAL)}
    for made in decisions:
        if made.revision in sent:
            moments = (sent[made.revision], *passed[made.revision], made.loaded, made.decided)
            for hop, begin, end in zip(HOPS, moments, moments[1:], strict=False):
                samples[hop].append(1000 * (end - begin))
            samples[TOTAL].append(1000 * (made.decided - sent[made.revision]))
    return samples


def table(columns: Mapping[str, Samples]) -> str:
    """p50 and slowest of each hop, a column pair for each size; then how far polling is behind."""
    lines = ["ms".ljust(26) + "".join(f"{size + ' p50':>14}{'slowest':>10}" for size in columns)]
    for row in (*HOPS, TOTAL, POLLING):
        cells = (f"{statistics.median(samples[row]):>14.1f}{max(samples[row]):>10.1f}" for samples in columns.values())
        lines.append(row.ljust(26) + "".join(cells))
    ratios = (
        f"{statistics.median(samples[POLLING]) / statistics.median(samples[TOTAL]):>13.0f}×"
        f"{max(samples[POLLING]) / max(samples[TOTAL]):>9.0f}×"
        for samples in columns.values()
    )
    return "\n".join([*lines, "polling takes longer by".ljust(26) + "".join(ratios)])


def poll(template: str) -> None:
    """The app as it is without a sidecar: the SDK polls once a second. Ends with its parent or by a signal."""
    manager = PollingConfigManager(sdk_key=KEY, url_template=template, update_interval=1)
    settings = OptimizelySdkSettings(odp_disabled=True)
    optimizely = Optimizely(config_manager=manager, settings=settings, default_decide_options=NO_EVENTS)
    parent, revision = os.getppid(), ""
    while os.getppid() == parent:
        decision = decide(optimizely)
        if decision.variables.get("revision", "") != revision:
            revision, decided = decision.variables["revision"], time.time()
            report(decision.enabled, decision.variables, decided, decided)
        time.sleep(0.001)


def columns(flips: int, workers: int = 2) -> dict[str, Samples]:
    """The samples of each size, in ms."""
    sizes = {size: flags_for(bytes_) for size, bytes_ in SIZES.items()}
    return {size: asyncio.run(measure(flags, flips, workers)) for size, flags in sizes.items()}


def rows(measured: Mapping[str, Samples]) -> list[Row]:
    """The rows of the table. Polling at the SDK's default is counted: it finds a flip after half an interval, on average."""
    made = []
    for size, samples in measured.items():
        ours, polling = statistics.median(samples[TOTAL]), statistics.median(samples[POLLING])
        what = f"webhook → decide(), {size}, p50"
        made += [
            Row(
                "end to end",
                what,
                ours,
                "ms",
                POLLING,
                polling,
                most=MOST_MS[size],
                most_ratio=MOST_OF_POLLING.get(size),
            ),
            Row("end to end", what, ours, "ms", "the SDK polling at its default, counted", DEFAULT_POLLING_MS),
        ]
    return made


async def main() -> int:
    """Measure each size and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flips", type=int, default=30, help="for each size")
    parser.add_argument("--workers", type=int, default=2, help="of the app")
    parser.add_argument("--json", action="store_true", help="print all samples, in ms")
    arguments = parser.parse_args()
    columns = {
        size: await measure(flags_for(bytes_), arguments.flips, arguments.workers) for size, bytes_ in SIZES.items()
    }
    if arguments.json:
        print(json.dumps(columns, ensure_ascii=False))
        return 0
    flags = ", ".join(f"{len(flags_for(bytes_))} flags in {size}" for size, bytes_ in SIZES.items())
    print(f"{arguments.flips} flips for each size ({flags}), {arguments.workers} workers, {os.cpu_count()} cores,")
    print(f"Python {platform.python_version()}, optimizely-sdk {version('optimizely-sdk')}\n")
    print(table(columns))
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--poll"]:
        poll(sys.argv[2])
    else:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # what this process started ends with it
        sys.exit(asyncio.run(main()))
