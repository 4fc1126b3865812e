"""Fork this process for a test, and wait for the children."""

import os
import signal
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from datafile_client import OptimizelyWatcher
from tests.client.helpers import patient_options


def in_child(work: Callable[[], None]) -> int:
    """Fork; do the work in the child and leave as a server's worker does, through the exit handlers."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        work()
        status = 0
        import atexit

        atexit._run_exitfuncs()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def reap(children: list[int], timeout: float = 40) -> list[int]:
    """Wait for all; kill what hangs. Return the exit codes."""
    codes = []
    deadline = time.monotonic() + timeout
    for child in children:
        while True:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                codes.append(os.waitstatus_to_exitcode(status))
                break
            if time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
            time.sleep(0.01)
    return codes


def track_ten_events(directory: Path, port: int, name: str) -> None:
    """Track ten events in this process and leave without stop()."""
    watcher = OptimizelyWatcher(sdk_key="KEY1", directory=directory, optimizely_options=patient_options(port))
    watcher.start()
    for number in range(10):
        watcher.optimizely.track("bought", f"{name}-{number}")
