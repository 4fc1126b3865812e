"""All that we say of performance, measured in one run: a table of figures, each beside what a user would take instead.

`make bench`. What can be compared takes turns in the same run, so that whatever else the machine does meets both. With --write the
table and its plots go into docs/performance.md. The exit status is 1 when a promise was missed, unless it was a --quick run,
which only shows that everything can be measured.
"""

import argparse
import os
import platform
import signal
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from benchmarks import end_to_end, endpoint, load, plot, rebuild, sidecar, told, validation
from benchmarks.table import Row, table

DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "performance.md"
PLOTS = DOCS / "performance"
Samples = dict[str, end_to_end.Samples]


def main() -> int:
    """Measure, print, and perhaps write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few samples of each, in less than a minute")
    parser.add_argument("--write", action="store_true", help="write docs/performance.md and its plots anew")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what this process started ends with it
    samples = end_to_end.columns(2 if options.quick else 40)
    rows = end_to_end.rows(samples)
    parts: tuple[tuple[str, Callable[..., list[Row]]], ...] = (
        ("client", rebuild.rows),
        ("told", told.rows),
        ("sidecar", sidecar.rows),
        ("load", load.rows),
        ("endpoint", endpoint.rows),
        ("validation", validation.rows),
    )
    for name, measure in parts:
        print(f"{time.strftime('%H:%M:%S')} {name} …", file=sys.stderr, flush=True)
        rows += measure(quick=options.quick)
    print(machine(), table(rows), end_to_end.table(samples), sep="\n\n")
    if options.write:
        write(rows, samples)
    missed = [row.what for row in rows if not row.is_kept]
    print("\nmissed: " + ", ".join(missed) if missed else "\nall promises are kept")
    return int(bool(missed) and not options.quick)


def machine() -> str:
    """What it was measured on."""
    lines = [line.partition(": ") for line in Path("/proc/cpuinfo").read_text().splitlines()]
    model = next((value for name, _, value in lines if name.startswith("model name")), "of an unknown model")
    names = ", ".join(f"{name} {version(name)}" for name in ("aiohttp", "msgspec", "optimizely-sdk", "watchfiles"))
    system = f"Linux {platform.release()}, Python {platform.python_version()}"
    return f"{os.cpu_count()} cores ({model}), load {os.getloadavg()[0]:.1f}, {system}, {names}"


def write(rows: list[Row], samples: Samples) -> None:
    """The parts of the page that are made by this command, and its plots."""
    PLOTS.mkdir(exist_ok=True)
    (PLOTS / "ratios.svg").write_text(plot.ratios(rows))
    (PLOTS / "end-to-end.svg").write_text(plot.latencies(hops(samples)))
    text = PAGE.read_text()
    for name, part in {
        "machine": machine(),
        "table": table(rows),
        "hops": f"```\n{end_to_end.table(samples)}\n```",
    }.items():
        begin, end = f"<!-- bench {name} -->\n", "<!-- bench end -->"
        before, _, rest = text.partition(begin)
        text = before + begin + part + "\n" + end + rest.partition(end)[2]
    PAGE.write_text(text)


def hops(samples: Samples) -> dict[str, dict[str, float]]:
    """The median of each hop, for each size."""
    return {
        size: {hop: statistics.median(measured[hop]) for hop in end_to_end.HOPS} for size, measured in samples.items()
    }


if __name__ == "__main__":
    sys.exit(main())
