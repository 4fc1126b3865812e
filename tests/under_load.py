"""Run a command several times beside processes that do nothing but keep processors busy: `make test-under-load`.

Prints the exit status and the seconds of each run. The exit status is 1 when a run failed.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def busy(count: int) -> Iterator[None]:
    """So many busy processes, which end with the context."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def main() -> int:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(prog="python -m tests.under_load", description=__doc__)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--busy", type=int, default=4, help="how many busy processes")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    failures = 0
    with busy(options.busy):
        for number in range(1, options.times + 1):
            began = time.monotonic()
            status = subprocess.run(options.command, check=False).returncode
            failures += status != 0
            print(f"run {number} of {options.times}: status {status}, {time.monotonic() - began:.0f} s", flush=True)
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
