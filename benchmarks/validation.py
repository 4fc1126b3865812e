"""What validation costs: time for good datafiles beside the alternatives, time and memory for hostile ones.

Run from the project's root: `python -m benchmarks.validation`. Every hostile body is parsed in a process of its own, so
that the peak of one does not hide the next. Linux only (/proc).
"""

import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from optimizely.helpers import validator
from optimizely.helpers.sdk_settings import OptimizelySdkSettings
from optimizely.logger import NoOpLogger
from optimizely.optimizely import Optimizely

from benchmarks.table import Row
from datafile_sidecar.core.datafile import MAX_BYTES, InvalidDatafileError, parse
from tests.datafiles import HOSTILE, hostile, realistic

SIZES_KIB = (12, 200, 1200, 3500, 8000)


def main() -> None:
    """Print both tables, or one line of the second when called with the name of a hostile body."""
    if len(sys.argv) > 1:
        print(hostile_line(sys.argv[1]))
        return
    print(
        f"{'good datafile':>14} {'parse':>9} {'json.loads':>11} {'Optimizely()':>13}   (ms of processor time, median)"
    )
    for size in SIZES_KIB:
        print(good_line(size))
    print(f"\n{'hostile, 8 MiB':<36} {'parse, ms':>9} {'peak, MiB':>10}   reason")
    for name in HOSTILE:
        command = [sys.executable, "-m", "benchmarks.validation", name]
        print(subprocess.run(command, check=True, capture_output=True, text=True).stdout, end="")


def good_line(size: int) -> str:
    """Validate a good datafile, and do to it what else might be done."""
    body = realistic(size, 43)
    ours, plain, sdk = (median_ms(partial(call, body)) for call in (validate, json.loads, build))
    return f"{size:>10} KiB {ours:>9.2f} {plain:>11.2f} {sdk:>13.2f}"


def validate(body: bytes) -> object:
    """What the sidecar does."""
    return parse(body, "KEY1")


def median_ms(call: Callable[[], object]) -> float:
    """Median processor time of eleven calls: it does not count what else runs on the machine."""
    times = []
    for _ in range(11):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return statistics.median(times) * 1000


def build(body: bytes) -> Optimizely:
    """What the app pays for the same bytes."""
    settings = OptimizelySdkSettings(odp_disabled=True)
    return Optimizely(
        body,  # type: ignore[arg-type]
        logger=NoOpLogger(),
        settings=settings,
        event_processor_options={"start_on_init": False},
    )


def rows(*, quick: bool) -> list[Row]:
    """The rows of the table of `python -m benchmarks`."""
    made = []
    for size in (1200,) if quick else (12, 1200, 3500):
        body = realistic(size, 43)
        what = f"validation of {size} KiB, processor time"
        ours, schema = median_ms(partial(validate, body)), median_ms(partial(validator.is_datafile_valid, body))
        made.append(Row("validation", what, ours, "ms", "the SDK's schema check", schema))
    return made


def hostile_line(name: str) -> str:
    """Parse one hostile body; the peak is resident memory above that of the process holding the body."""
    body = hostile(name, MAX_BYTES)
    Path("/proc/self/clear_refs").write_text("5")  # the kernel's high-water mark starts anew
    before = resident_peak_kib()
    start = time.process_time()
    reason = "taken"
    try:
        parse(body, "KEY1")
    except InvalidDatafileError as error:
        reason = error.reason
    took = (time.process_time() - start) * 1000
    return f"{name:<36} {took:>9.1f} {(resident_peak_kib() - before) / 1024:>10.1f}   {reason}"


def resident_peak_kib() -> int:
    """The high-water mark of this process's resident memory."""
    match = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    assert match
    return int(match[1])


if __name__ == "__main__":
    main()
