"""A rebuild by the client beside a plain `Optimizely(datafile)` in a thread, in one run: `python -m benchmarks.rebuild`.

Prints a table: CPU of a rebuild, the longest stall of another thread's decide() and of the asyncio loop meanwhile, renamed →
swapped, memory kept, idle CPU beside a bare watchfiles loop, import and start-up. Each figure comes from a process of its
own; both sides take turns, so that whatever else the machine does meets both.
"""

import asyncio
import gc
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.table import Row, table

SIZES = {"12 KiB": 12_000, "1.2 MiB": 1_200_000, "3.5 MiB": 3_500_000}
REBUILDS = 8
IDLE_S = 10.0


def _builder(kind: str) -> Callable[[bytes], Any]:
    if kind == "plain":
        from optimizely.optimizely import Optimizely

        return lambda datafile: Optimizely(datafile.decode())
    from datafile_client._instance_builder import InstanceBuilder

    builder = InstanceBuilder("KEY1", {})
    return lambda datafile: builder.build(datafile, "", Path("benchmark"), prevalidated=True).optimizely


def rebuilds(kind: str, size: int, work: str) -> dict[str, float]:
    """Rebuild in a thread while the main thread decides, or runs an asyncio loop; return milliseconds."""
    from benchmarks.client_datafiles import realistic

    build = _builder(kind)
    datafiles = [realistic(size, revision) for revision in range(1, REBUILDS + 2)]
    current = [build(datafiles[0])]
    gc.collect()
    cpu: list[float] = []
    spans: list[tuple[float, float]] = []
    done = threading.Event()

    def rebuild() -> None:
        for datafile in datafiles[1:]:
            time.sleep(0.1)
            started, cpu_started = time.perf_counter(), time.thread_time()
            built, old = build(datafile), current[0]
            current[0] = built
            if kind == "plain":
                old.close()
            del old, built
            cpu.append(time.thread_time() - cpu_started)
            # What the build leaves to the collector is paid for by whoever allocates next.
            time.sleep(0.1)
            spans.append((started, time.perf_counter()))
        done.set()

    thread = threading.Thread(target=rebuild)
    thread.start()
    gaps = _decide(current, done) if work == "decide" else asyncio.run(_sleep(done))
    thread.join()
    longest = [max([gap for at, gap in gaps if start <= at <= end], default=0.0) for start, end in spans]
    return {
        "cpu": statistics.median(cpu) * 1000,
        "stall": statistics.median(longest) * 1000,
        "worst": max(longest) * 1000,
    }


def _decide(current: list[Any], done: threading.Event) -> list[tuple[float, float]]:
    gaps = []
    last = time.perf_counter()
    while not done.is_set():
        current[0].create_user_context("user").decide("flag-0", ["DISABLE_DECISION_EVENT"])
        now = time.perf_counter()
        gaps.append((now, now - last))
        last = now
    return gaps


async def _sleep(done: threading.Event) -> list[tuple[float, float]]:
    gaps = []
    while not done.is_set():
        started = time.perf_counter()
        await asyncio.sleep(0.001)
        now = time.perf_counter()
        gaps.append((now, now - started - 0.001))
    return gaps


def latency(kind: str, size: int) -> dict[str, float]:
    """Measure from the rename to the swap, in milliseconds, by real files."""
    from benchmarks.client_datafiles import realistic
    from datafile_client.testing import write_datafile
    from tests.client.helpers import write_status

    times = []
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        write_datafile(directory, "KEY1", realistic(size, 1))
        waits = _waiter(kind, directory)
        for revision in range(2, 42):
            datafile = realistic(size, revision)
            write_status(directory, "KEY1", datafile)
            time.sleep(0.1)
            started = time.perf_counter()
            write_datafile(directory, "KEY1", datafile)
            assert waits(revision)
            times.append((time.perf_counter() - started) * 1000)
    return {"p50": statistics.median(times), "slowest": max(times)}


def _waiter(kind: str, directory: Path) -> Callable[[int], bool]:
    """Follow the file, by the watcher or by the loop that one would write; what waits until a revision decides."""
    if kind == "ours":
        from datafile_client import OptimizelyWatcher

        watcher = OptimizelyWatcher(sdk_key="KEY1", directory=directory)
        watcher.start()
        return lambda revision: watcher.wait_for_revision(revision, timeout=20)
    import watchfiles

    build, changed, decides = _builder(kind), threading.Condition(), {"revision": 1}

    def follow() -> None:
        for _ in watchfiles.watch(directory):
            current = build((directory / "KEY1.json").read_bytes())
            with changed:
                decides["revision"] = int(current.config_manager.get_config().revision)
                changed.notify_all()

    threading.Thread(target=follow, daemon=True).start()
    time.sleep(0.5)  # until it watches

    def wait(revision: int) -> bool:
        with changed:
            return changed.wait_for(lambda: decides["revision"] >= revision, 20)

    return wait


def idle(kind: str) -> dict[str, float]:
    """Measure the CPU of a process that only watches."""
    from benchmarks.client_datafiles import realistic
    from datafile_client.testing import write_datafile

    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        write_datafile(directory, "KEY1", realistic(12_000))
        if kind == "ours":
            from datafile_client import OptimizelyWatcher

            OptimizelyWatcher(sdk_key="KEY1", directory=directory).start()
        else:
            import watchfiles

            # With an event to stop it by, as any loop has that an app can end; without, it takes a tenth less.
            loop = watchfiles.watch(directory, step=10, debounce=50, recursive=False, stop_event=threading.Event())
            threading.Thread(target=lambda: next(loop), daemon=True).start()
        time.sleep(1)
        started = time.process_time()
        time.sleep(IDLE_S)
        spent = time.process_time() - started
    return {"percent": spent / IDLE_S * 100}


def leak(kind: str) -> dict[str, float]:
    """Measure what 100 rebuilds leave behind, in MiB of resident memory, with ODP on and an SDK key in the datafile."""
    from benchmarks.client_datafiles import realistic

    build = _builder(kind)
    datafile = json.loads(realistic(230_000)) | {"sdkKey": "KEY1"}

    def rebuild(count: int) -> float:
        for revision in range(count):
            old = build(json.dumps(datafile | {"revision": str(revision)}).encode())
            if kind == "plain":
                old.close()
            del old
        gc.collect()
        return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) / 1024

    before = rebuild(20)
    return {"mib": rebuild(100) - before}


def startup(kind: str) -> dict[str, float]:
    """Measure import and the way to the first decision, in milliseconds."""
    from benchmarks.client_datafiles import realistic

    datafile = realistic(12_000)
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "KEY1.json").write_bytes(datafile)
        started = time.perf_counter()
        instance: Any
        if kind == "ours":
            from datafile_client import OptimizelyWatcher

            imported = time.perf_counter()
            watcher = OptimizelyWatcher(sdk_key="KEY1", directory=name)
            watcher.start()
            instance = watcher.optimizely
        else:
            from optimizely.optimizely import Optimizely

            imported = time.perf_counter()
            instance = Optimizely((Path(name) / "KEY1.json").read_text())
        instance.create_user_context("user").decide("flag-0", ["DISABLE_DECISION_EVENT"])
        ready = time.perf_counter()
    return {"import": (imported - started) * 1000, "first decision": (ready - imported) * 1000}


def _measure(*arguments: object) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.rebuild", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    return {name: float(value) for name, value in json.loads(done.stdout).items()}


def main() -> None:
    """Measure everything and print the table."""
    print(table(rows(quick=False)))


def rows(*, quick: bool) -> list[Row]:
    """The rows of the table of `python -m benchmarks`."""
    if quick:
        return [
            _row(
                "CPU of a rebuild, 1.2 MiB",
                "cpu",
                *_sides("rebuilds", SIZES["1.2 MiB"], "decide", rounds=1),
                most_ratio=1 / 3,
            )
        ]
    made = []
    for label, size in SIZES.items():
        plain, ours = _sides("rebuilds", size, "decide", rounds=2)
        made.append(_row(f"CPU of a rebuild, {label}", "cpu", plain, ours, most_ratio=1 / 3))
        if size > 10**6:  # below that the stalls are the machine's own
            made.append(_row(f"longest stall of decide(), {label}", "stall", plain, ours, most_ratio=0.4))
            plain, ours = _sides("rebuilds", size, "loop", rounds=2)
            made.append(_row(f"longest lag of the asyncio loop, {label}", "stall", plain, ours, most_ratio=0.4))
    loop = "a watchfiles loop with plain instances"
    for label, size, most in (("12 KiB", SIZES["12 KiB"], 40.0), ("1.2 MiB", SIZES["1.2 MiB"], None)):
        sides = _sides("latency", size, rounds=2)
        made.append(_row(f"file renamed → swapped, {label}, p50", "p50", *sides, beside=loop, most=most))
    made.append(_row("memory kept by 100 rebuilds, ODP on", "mib", *_sides("leak", rounds=1), unit="MiB", most=4))
    sides = _sides("idle", rounds=2)
    bare = "a bare watchfiles loop"
    made.append(_row("client's processor at rest", "percent", *sides, "% of a core", bare, most_ratio=1.3))
    started = _sides("startup", rounds=5)
    made.append(_row("client's import", "import", *started))
    made.append(_row("imported → first decision, 12 KiB", "first decision", *started))
    return made


Sides = tuple[list[dict[str, float]], list[dict[str, float]]]


def _sides(work: str, *arguments: object, rounds: int) -> Sides:
    """Both sides in turn: what each process of the plain one measured, and of ours."""
    pairs = [(_measure(work, "plain", *arguments), _measure(work, "ours", *arguments)) for _ in range(rounds)]
    return [plain for plain, _ in pairs], [ours for _, ours in pairs]


def _row(
    what: str,
    figure: str,
    plain: list[dict[str, float]],
    ours: list[dict[str, float]],
    unit: str = "ms",
    beside: str = "a plain Optimizely(datafile)",
    **promise: float | None,
) -> Row:
    one, other = (statistics.median(measured[figure] for measured in side) for side in (ours, plain))
    return Row("client", what, one, unit, beside, other, **promise)


MEASURES: dict[str, Callable[..., dict[str, float]]] = {
    "rebuilds": lambda kind, size, work: rebuilds(kind, int(size), work),
    "latency": lambda kind, size: latency(kind, int(size)),
    "idle": idle,
    "leak": leak,
    "startup": startup,
}

if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    else:
        json.dump(MEASURES[sys.argv[1]](*sys.argv[2:]), sys.stdout)
