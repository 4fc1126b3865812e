"""Ten thousand decisions over fifty swaps: each event once, and no request of two revisions."""

import asyncio
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from datafile_client import OptimizelyWatcher
from tests.client.conftest import MakeWatcher
from tests.client.helpers import ROOT, Receiver, publish_flags_with_revision, running

SWAPS = 50


def revisions_of_one_request(watcher: OptimizelyWatcher) -> set[int]:
    """Serve one request: what decide_all, later decisions and an enabled list say, by one user context."""
    user = watcher.optimizely.create_user_context("user")
    assert user is not None
    options = ["DISABLE_DECISION_EVENT"]
    decisions = [*user.decide_all(options).values(), user.decide("flag-0", options), user.decide("flag-7", options)]
    return {decision.variables["revision"] for decision in decisions}


def test_no_thread_mixes_revisions(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user's request in a thread is decided by one revision from its first flag to its last."""
    publish_flags_with_revision(directory, 1)
    watcher = make_watcher()
    watcher.start()
    seen: Counter[int] = Counter()
    busy = threading.Event()

    def serve() -> None:
        while not busy.is_set():
            (revision,) = revisions_of_one_request(watcher)
            seen[revision] += 1

    interval = sys.getswitchinterval()
    sys.setswitchinterval(
        interval / 10
    )  # more requests are interrupted by a swap, and swaps wait less for the requests
    try:
        with running([threading.Thread(target=serve) for _ in range(2)]):
            for revision in range(2, SWAPS + 2):
                publish_flags_with_revision(directory, revision)
                assert watcher.wait_for_revision(revision)
            busy.set()
    finally:
        sys.setswitchinterval(interval)
    assert len(seen) > SWAPS / 2


async def test_no_task_mixes_revisions(directory: Path) -> None:
    """A user's request in asyncio, which waits between two decisions, is decided by one revision all the same."""
    publish_flags_with_revision(directory, 1)
    seen: Counter[int] = Counter()
    done = asyncio.Event()
    async with OptimizelyWatcher(sdk_key="KEY1", directory=directory) as watcher:

        async def serve() -> None:
            while not done.is_set():
                user = watcher.optimizely.create_user_context("user")
                assert user is not None
                revisions = set()
                for number in range(4):
                    await asyncio.sleep(0.005)
                    decision = user.decide(f"flag-{number}", ["DISABLE_DECISION_EVENT"])
                    revisions.add(decision.variables["revision"])
                (revision,) = revisions
                seen[revision] += 1

        async with asyncio.TaskGroup() as tasks:
            for _ in range(5):
                tasks.create_task(serve())
            for revision in range(2, SWAPS + 2):
                publish_flags_with_revision(directory, revision)
                assert await asyncio.to_thread(watcher.wait_for_revision, revision)
            done.set()
    assert len(seen) > SWAPS / 2


SCRIPT = f"""
import queue, sys, threading
from pathlib import Path
from datafile_client import OptimizelyWatcher
from tests.client.helpers import LocalDispatcher, decide, publish_flags_with_revision
directory = Path(sys.argv[1])
publish_flags_with_revision(directory, 1)
watcher = OptimizelyWatcher(
    sdk_key="KEY1",
    directory=directory,
    optimizely_options={{
        "event_dispatcher": LocalDispatcher(int(sys.argv[2])),
        "event_processor_options": {{"batch_size": 10, "event_queue": queue.Queue(20_000), "timeout_interval": 40}},
    }},
)
watcher.start()
swapped = threading.Event()
def swap():
    for revision in range(2, {SWAPS} + 2):
        publish_flags_with_revision(directory, revision)
        assert watcher.wait_for_revision(revision)
        swapped.wait(0.05)
swapper = threading.Thread(target=swap)
swapper.start()
def serve(name):
    for number in range(2_500):
        assert decide(watcher.optimizely, "flag-1", f"{{name}}-{{number}}").enabled
servers = [threading.Thread(target=serve, args=(name,)) for name in range(4)]
for thread in servers:
    thread.start()
for thread in [*servers, swapper]:
    thread.join()
"""


@pytest.mark.system
def test_ten_thousand_decisions_are_ten_thousand_events(directory: Path) -> None:
    """A user whose process ends without stop() has sent each of its events exactly once."""
    with Receiver() as receiver:
        started = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, directory, str(receiver.port)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert time.monotonic() - started < 50
        assert len(receiver.users) == 10_000
        assert set(receiver.users.values()) == {1}
