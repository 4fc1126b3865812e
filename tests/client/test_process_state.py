"""The watcher thread and its locks: one per process, without deadlocks, and replaced where it gets no time."""

import contextlib
import io
import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from optimizely.helpers import validator

from datafile_client import DatafileUnavailableError
from datafile_client.testing import write_datafile
from tests.client.conftest import MakeWatcher
from tests.client.forking import in_child, reap
from tests.client.helpers import (
    ROOT,
    Receiver,
    is_on,
    patient_options,
    publish,
    running,
    sized_datafile,
    wait_until,
    watching,
)


def test_threads_that_come_at_once_in_a_child_log_no_warning(
    directory: Path, make_watcher: MakeWatcher, caplog: pytest.LogCaptureFixture
) -> None:
    """A user of a threaded server reads no warning when a new worker's first requests come together."""
    write_datafile(directory, "KEY1", sized_datafile(500_000, 1))
    watcher = make_watcher()
    watcher.start()
    write_datafile(directory, "KEY1", sized_datafile(500_000, 2))

    def work() -> None:
        caplog.clear()
        seen = []
        with running([threading.Thread(target=lambda: seen.append(watcher.revision)) for _ in range(8)]):
            pass
        assert set(seen) <= {1, 2}, "nobody waits for the one that builds"
        assert watcher.wait_for_revision(2, timeout=20)
        assert caplog.text == ""

    assert reap([in_child(work)]) == [0]


def test_a_formatter_may_ask_for_the_revision_at_a_childs_first_use(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user who stamps each log line with the revision gets no deadlock between a request that builds and one that logs."""
    write_datafile(directory, "KEY1", sized_datafile(2_000_000, 1))
    watcher = make_watcher()
    watcher.start()
    write_datafile(directory, "KEY1", sized_datafile(2_000_000, 2))

    class Stamp(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            return f"{watcher.revision} {super().format(record)}"

    def work() -> None:
        handler = logging.StreamHandler(io.StringIO())
        handler.setFormatter(Stamp())
        root = logging.getLogger()
        root.handlers[:] = [handler]
        root.setLevel(logging.INFO)
        with running([threading.Thread(target=lambda: watcher.revision)]):
            time.sleep(0.02)
            root.info("a line")
        assert watcher.revision == 2

    assert reap([in_child(work)], timeout=40) == [0]


FORKING = """
import os, sys, time
from datafile_client import OptimizelyWatcher, _watcher
from tests.client.helpers import publish
from pathlib import Path
_watcher._HEARTBEAT_TIMEOUT_S = 300  # no check on use stands in for the thread
directory = Path(sys.argv[1])
publish(directory, 1)
watcher = OptimizelyWatcher(sdk_key="KEY1", directory=directory, rescan_interval_s=0.2)
watcher.start()
children = []
for _ in range(10):
    busy_until = time.monotonic() + 0.002
    while time.monotonic() < busy_until:
        pass
    child = os.fork()
    if not child:
        watcher.optimizely
        os._exit(0 if watcher.wait_for_revision(2, timeout=20) else 1)
    children.append(child)
publish(directory, 2)
print(sum(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
"""


@pytest.mark.system
@pytest.mark.timeout(300)
def test_a_fork_right_after_start_lets_every_child_follow(directory: Path) -> None:
    """A user's master may fork while its watcher thread is starting. The test repeats it, as chance decides."""
    run = [sys.executable, "-W", "ignore", "-c", FORKING, str(directory)]
    for _ in range(30):
        done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
        assert (done.stdout, done.stderr) == ("0\n", "")


def test_threads_that_start_it_at_once_start_one(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user whose threads all start a stopped watcher has one that watches, and none after stop()."""
    publish(directory, 1)
    watcher = make_watcher()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(150):
            barrier = threading.Barrier(4)

            def start(barrier: threading.Barrier = barrier) -> None:
                barrier.wait()
                watcher.start()

            with running([threading.Thread(target=start) for _ in range(4)]):
                pass
            assert len(watching()) == 1
            watcher.stop()
            wait_until(lambda: not watching())
    finally:
        sys.setswitchinterval(interval)


def test_a_start_during_a_stop_starts_the_watcher(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user who starts the watcher while another thread is still stopping it follows, and sends events."""
    publish(directory, 1)
    with Receiver() as receiver:
        watcher = make_watcher(optimizely_options=patient_options(receiver.port))
        watcher.start()
        entered, release = threading.Event(), threading.Event()

        def hold(_: object) -> None:
            entered.set()
            release.wait(20)

        watcher.on_update(hold)()
        watcher.on_update(hold)
        assert entered.wait(20)
        with running([threading.Thread(target=watcher.stop)]):
            wait_until(lambda: not watcher._started)  # the thread stops it now, and waits for the callback

            def start_and_track() -> None:
                watcher.start()
                watcher.optimizely.track("bought", "early")

            start = threading.Thread(target=start_and_track)
            start.start()
            release.set()
            start.join(20)
        publish(directory, 2)
        assert watcher.wait_for_revision(2, timeout=20)
        watcher.optimizely.track("bought", "user")
        wait_until(lambda: receiver.users == {"early": 1, "user": 1})


def test_thirty_restarts_leave_nothing_behind(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user may start and stop as often as they like: threads and descriptors are flat."""
    publish(directory, 1)

    class Nowhere:
        def dispatch_event(self, event: Any) -> None:
            """Let it vanish."""

    watcher = make_watcher(optimizely_options={"event_dispatcher": Nowhere()})
    watcher.start()
    watcher.stop()
    threads, descriptors = threading.active_count(), len(os.listdir("/proc/self/fd"))
    for _ in range(30):
        watcher.start()
        watcher.optimizely.track("bought", "user")
        watcher.stop()
    wait_until(lambda: threading.active_count() <= threads)
    wait_until(lambda: len(os.listdir("/proc/self/fd")) <= descriptors)


def test_a_blocked_watcher_thread_is_replaced_by_checks_on_use(
    directory: Path, make_watcher: MakeWatcher, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user whose watcher thread is blocked still gets the newest flags, and reads one warning."""
    publish(directory, 1)
    watcher = make_watcher()
    watcher.start()
    entered, release = threading.Event(), threading.Event()

    class Hold(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if threading.current_thread() in watching():
                entered.set()
                release.wait(50)

    handler = Hold()
    logging.getLogger("datafile_client").addHandler(handler)
    caplog.set_level(logging.INFO, "datafile_client")
    monkeypatch.setattr("datafile_client._watcher._HEARTBEAT_TIMEOUT_S", 0.5)
    try:
        publish(directory, 2)
        assert entered.wait(20)
        publish(directory, 3)
        assert watcher.wait_for_revision(3, timeout=20)
        assert is_on(watcher) is True
    finally:
        release.set()
        logging.getLogger("datafile_client").removeHandler(handler)
    assert caplog.text.count("Watcher thread stuck or missing") == 1


def test_a_slow_build_blocks_no_request(
    directory: Path, make_watcher: MakeWatcher, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user on a starved node, where a build takes seconds, decides by the last flags meanwhile, without an alarm."""
    check, building, built = validator.is_datafile_valid, threading.Event(), threading.Event()
    publish(directory, 1)
    watcher = make_watcher()
    watcher.start()

    def slow(data: bytes) -> bool:
        building.set()
        built.wait(50)
        return check(data)

    monkeypatch.setattr(validator, "is_datafile_valid", slow)
    publish(directory, 2)
    assert building.wait(20)
    with monkeypatch.context() as impatient:
        impatient.setattr("datafile_client._watcher._HEARTBEAT_TIMEOUT_S", 0)
        started = time.monotonic()
        assert watcher.revision == 1
        assert time.monotonic() - started < 5
    built.set()
    assert watcher.wait_for_revision(2)
    assert "stuck or missing" not in caplog.text


def test_a_process_without_the_thread_checks_on_use(
    directory: Path, make_watcher: MakeWatcher, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user whose container is out of threads gets the newest flags at each use, and reads one warning."""
    monkeypatch.setattr("datafile_client._watcher._HEARTBEAT_TIMEOUT_S", 0.1)
    publish(directory, 1)
    watcher = make_watcher()
    size = threading.stack_size(1 << 47)  # more than a process can have
    try:
        watcher.start()
    finally:
        threading.stack_size(size)
    assert not watching()
    publish(directory, 2)
    assert watcher.wait_for_revision(2, timeout=20)
    watcher.stop()
    assert caplog.text.count("stuck or missing") == 1


def test_a_log_filter_may_ask_for_the_revision(
    directory: Path, make_watcher: MakeWatcher, caplog: pytest.LogCaptureFixture
) -> None:
    """A user who stamps each log line with the revision gets no deadlock from our own lines."""
    watcher = make_watcher()
    stamps = []

    def stamp(_: logging.LogRecord) -> bool:
        with contextlib.suppress(DatafileUnavailableError):
            stamps.append(watcher.revision)
        return True

    logger = logging.getLogger("datafile_client")
    caplog.set_level(logging.INFO, logger.name)
    logger.addFilter(stamp)
    try:
        for content in (b"broken", publish(directory, 1)):
            write_datafile(directory, "KEY1", content)
            with contextlib.suppress(DatafileUnavailableError):
                watcher.start(timeout=0)
            watcher.stop()
    finally:
        logger.removeFilter(stamp)
    assert 1 in stamps
