"""Threads that the system does not allow, or that are greenlets."""

import _thread
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from datafile_client import _threads
from tests.client.helpers import ROOT

NO_THREADS = """
import logging, os, resource, sys, time
from datafile_client import OptimizelyWatcher
from datafile_client.testing import make_datafile, write_datafile

logging.basicConfig(format="%(message)s")
directory = os.environ["DATAFILE_DIR"]
write_datafile(directory, "k", make_datafile({"f": True}))
os.setuid(54321 + int(sys.argv[1]))  # the limit does not bind root
resource.setrlimit(resource.RLIMIT_NPROC, (int(sys.argv[1]),) * 2)
watcher = OptimizelyWatcher(sdk_key="k", directory=directory)
watcher.start(timeout=5)
for revision in (2, 3):
    assert watcher.user("u").decide("f").enabled
    write_datafile(directory, "k", make_datafile({"f": True}, revision=revision))
    ends_at = time.monotonic() + 20
    while watcher.revision != revision:
        assert time.monotonic() < ends_at
        time.sleep(0.1)
watcher.stop()
print("lives")
"""
LATE_EVENT = """
import json, logging, os, resource, sys, time
from datafile_client import OptimizelyWatcher
from datafile_client.testing import make_datafile, write_datafile

logging.basicConfig(format="%(message)s")
directory = os.environ["DATAFILE_DIR"]
datafile = json.loads(make_datafile({"f": True})) | {"sendFlagDecisions": True}
datafile["integrations"] = [{"key": "odp", "host": "http://127.0.0.1:9", "publicKey": "pk"}]
write_datafile(directory, "k", json.dumps(datafile))
sent = []

class Dispatcher:
    def dispatch_event(self, event):
        sent.append(event)

os.setuid(54400)
watcher = OptimizelyWatcher(sdk_key="k", directory=directory, optimizely_options={"event_dispatcher": Dispatcher()})
watcher.start(timeout=5)
time.sleep(0.5)
resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
for _ in range(3):
    assert watcher.user("u").decide("f").enabled
watcher.stop()
print(sum(len(visitor["snapshots"]) for event in sent for visitor in event.params["visitors"]))
"""


def run(program: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", program, *arguments]
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o777)  # the program becomes another user
        return subprocess.run(
            command, cwd=ROOT, env={"DATAFILE_DIR": directory}, capture_output=True, text=True, timeout=50, check=False
        )


needs_root = pytest.mark.skipif(os.getuid() != 0, reason="needs root, to become a user whom a limit binds")


@needs_root
@pytest.mark.system
@pytest.mark.parametrize(
    ("allowed", "warning"), [("1", "Watcher thread stuck or missing"), ("2", "no more threads are allowed"), ("9", "")]
)
def test_an_app_at_its_limit_of_threads_lives_and_follows(allowed: str, warning: str) -> None:
    """A user whose pod may start no more threads has no crash: each use looks at the file, and a line says so, once.

    A thread that has just ended may still count at the limit, so that even the first one is refused for a moment: that is a line
    of its own.
    """
    done = run(NO_THREADS, allowed)
    assert (done.returncode, done.stdout) == (0, "lives\n"), done.stderr
    assert warning in done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == len(set(lines)) <= 2 * bool(warning), done.stderr


@needs_root
@pytest.mark.system
def test_a_decision_without_a_thread_for_its_event_is_returned_and_the_event_sent() -> None:
    """A user's request never fails because the SDK's own threads can't start; stop() sends the events that have waited."""
    done = run(LATE_EVENT)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "3\n"
    assert done.stderr.count("until a thread can be started") == 2, "one line for events, one for ODP"


def test_a_thread_that_is_not_allowed_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who starts one learns that there is none."""
    assert _threads.is_one_left()

    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert not _threads.is_one_left()


def test_patched_threads_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that gevent or eventlet has replaced are seen as greenlets, also when that happens after the import."""
    assert not _threads.are_greenlets()
    monkeypatch.setattr(_thread, "start_new_thread", lambda *_: None)
    assert _threads.are_greenlets()
