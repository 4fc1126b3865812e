"""The app's garbage collector stays the app's: nothing grows, nothing is turned on or off, and no build is held up."""

import gc
import subprocess
import sys

import pytest

from datafile_client._gc_pause import gc_paused
from tests.client.forking import in_child, reap
from tests.client.helpers import ROOT

GARBAGE = """
import gc, sys, tempfile, threading, time
from datafile_client import OptimizelyWatcher
from datafile_client.testing import write_datafile
from tests.client.helpers import sized_datafile

class Request:
    live = 0
    def __init__(self):
        Request.live += 1
        self.me = self
        self.body = bytearray(4000)
    def __del__(self):
        Request.live -= 1

heap = [{"a": [number]} for number in range(150_000)]
directory = tempfile.mkdtemp()
write_datafile(directory, "KEY1", sized_datafile(500_000, 1))
watcher = OptimizelyWatcher(sdk_key="KEY1", directory=directory)
watcher.start()
ends = threading.Event()
def serve():
    while not ends.is_set():
        Request()
        if Request.live % 50 == 0:
            time.sleep(0.0005)
threads = [threading.Thread(target=serve) for _ in range(2)]
for thread in threads:
    thread.start()
full, most = gc.get_stats()[2]["collections"], 0
for revision in range(2, 102):
    write_datafile(directory, "KEY1", sized_datafile(500_000, revision))
    assert watcher.wait_for_revision(revision, 30)
    most = max(most, Request.live)
ends.set()
for thread in threads:
    thread.join()
print(most, gc.get_stats()[2]["collections"] - full)
watcher.stop()
"""


def test_an_app_that_makes_garbage_beside_many_builds_gets_rid_of_it() -> None:
    """A user whose requests leave cycles has no more of them because datafiles come often, and full collections go on."""
    command = [sys.executable, "-c", GARBAGE]
    done = subprocess.run(command, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True, timeout=50, check=True)
    most, full_collections = map(int, done.stdout.split())
    assert most < 2500
    assert full_collections >= 1


def test_collection_is_paused_for_one_build_and_on_again() -> None:
    """A user's garbage collector runs again whatever happened in the build, and stays off where the app wants it off."""
    thresholds = gc.get_threshold()
    with gc_paused():
        assert gc.get_threshold()[1] > 1_000_000
    assert gc.get_threshold() == thresholds
    with pytest.raises(KeyboardInterrupt), gc_paused():
        raise KeyboardInterrupt
    assert gc.get_threshold() == thresholds
    try:
        with gc_paused():
            gc.disable()
        assert not gc.isenabled(), "what the app says in the midst of a build holds"
        with gc_paused():
            gc.enable()
        assert gc.isenabled()
        with gc_paused():
            gc.set_threshold(500, 5, 5)
        assert gc.get_threshold() == (500, 5, 5)
    finally:
        gc.enable()
        gc.set_threshold(*thresholds)


def test_a_child_of_a_paused_parent_collects_garbage() -> None:
    """A user's child that was forked in the midst of a build has its garbage collector on."""

    thresholds = gc.get_threshold()

    def work() -> None:
        assert gc.get_threshold() == thresholds

    with gc_paused():
        child = in_child(work)
    assert reap([child]) == [0]
    assert gc.get_threshold() == thresholds


def test_what_the_app_has_frozen_stays_frozen() -> None:
    """A user who froze the heap before a fork, to share memory, finds it frozen after a build."""

    def work() -> None:
        ballast = [[number] for number in range(10_000)]
        gc.freeze()
        frozen = gc.get_freeze_count()
        with gc_paused():
            ballast += [[number] for number in range(30_000)]
        assert gc.get_freeze_count() == frozen

    assert reap([in_child(work)]) == [0]


def test_builds_at_the_same_time_end_the_pause_with_the_last_one() -> None:
    """A user of two SDK keys gets the collector back when both builds are over."""
    thresholds = gc.get_threshold()
    with gc_paused():
        with gc_paused():
            pass
        assert gc.get_threshold() != thresholds
    assert gc.get_threshold() == thresholds


def test_an_app_without_a_collector_keeps_none() -> None:
    """A user who has set the threshold to 0 finds it there."""
    thresholds = gc.get_threshold()
    gc.set_threshold(0)
    try:
        with gc_paused():
            pass
        assert gc.get_threshold()[0] == 0
    finally:
        gc.set_threshold(*thresholds)
