"""Rebuild many times in a process of its own and print what grew, as JSON: `python -m tests.client.rebuild_many COUNT SIZE ODP`."""

import gc
import json
import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from optimizely.helpers.sdk_settings import OptimizelySdkSettings
from optimizely.optimizely import Optimizely

from datafile_client import OptimizelyOptions, OptimizelyWatcher
from datafile_client.testing import write_datafile
from tests.client.helpers import ODP, decide, sized_datafile, write_status


def descriptors_at_rest() -> int:
    """The fewest open descriptors within half a second: the watcher may be reading a file at any one moment."""
    counts = []
    for _ in range(25):
        counts.append(len(os.listdir("/proc/self/fd")))
        time.sleep(0.02)
    return min(counts)


def figures() -> dict[str, Any]:
    """Measure this process now."""
    gc.collect()
    status = Path("/proc/self/status").read_text()
    return {
        "rss_kib": int(status.split("VmRSS:")[1].split()[0]),
        "threads": threading.active_count(),
        "descriptors": descriptors_at_rest(),
        "live": sum(isinstance(thing, Optimizely) for thing in gc.get_objects()),
    }


def main(count: int, size: int, *, odp: bool) -> None:
    """Rebuild `count` times from files of `size` bytes."""
    fields = ODP if odp else {}
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        datafiles = [sized_datafile(size, 1000, **fields)]

        def publish(revision: int) -> None:
            datafile = datafiles[0].replace(b'"revision": "1000"', b'"revision": "%d"' % (1000 + revision))
            write_status(directory, "KEY1", datafile)
            write_datafile(directory, "KEY1", datafile)

        publish(0)
        options: OptimizelyOptions = {"settings": OptimizelySdkSettings(odp_disabled=not odp)}
        with OptimizelyWatcher(sdk_key="KEY1", directory=directory, optimizely_options=options) as watcher:
            before = figures()
            for revision in range(1, count + 51):
                publish(revision)
                assert watcher.wait_for_revision(1000 + revision, timeout=20)
                decide(watcher.optimizely, "flag-00001")
                if revision == 50:
                    before = figures()
            json.dump({"before": before, "after": figures(), "bytes": len(datafiles[0])}, sys.stdout)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), odp=sys.argv[3] == "odp")
