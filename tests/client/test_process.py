"""Forks and endings: no process loses an event, sends another's, or hangs."""

import gc
import io
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optimizely.event.event_processor import BatchEventProcessor

from datafile_client import OptimizelyWatcher
from datafile_client._instance import collection_paused
from datafile_client._process import PerProcess
from datafile_client.testing import write_datafile
from tests.client.conftest import MakeWatcher
from tests.client.helpers import LocalDispatcher, Receiver, publish, running, sized_datafile, wait_until

ROOT = Path(__file__).parents[2]


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


def reap(children: list[int], timeout: float = 20) -> list[int]:
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


def test_forked_children_follow_and_send_their_own_events(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user of a preloading server gets new flags and every event once from each child, forked amid swaps (trap 43)."""
    publish(directory, 1)
    with Receiver() as receiver:
        watcher = make_watcher(optimizely_options={"event_dispatcher": LocalDispatcher(receiver.port)})
        watcher.start()
        watcher.optimizely.track("bought", "parent")
        busy = threading.Event()

        def swap() -> None:
            revision = 2
            while not busy.is_set():
                publish(directory, revision)
                revision += 1
                time.sleep(0.01)
            publish(directory, 10_000)

        def work() -> None:
            name = os.getpid()
            watcher.optimizely.track("bought", f"{name}-first")
            assert watcher.wait_for_revision(10_000, timeout=10)
            for number in range(9):
                watcher.optimizely.track("bought", f"{name}-{number}")

        children = []
        with running([threading.Thread(target=swap)]):
            for _ in range(12):
                children.append(in_child(work))
                watcher.optimizely.track("bought", f"parent-{len(children)}")
            busy.set()
        assert reap(children) == [0] * 12
        assert watcher.wait_for_revision(10_000)
        watcher.stop()
        assert set(receiver.users.values()) == {1}
        assert len(receiver.users) == 1 + 12 + 12 * 10


def test_a_child_does_not_send_what_its_parent_has_queued(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user's queued events are sent by the process that made them, although a fork copies the queue."""
    publish(directory, 1)
    with Receiver() as receiver:
        options = {
            "event_dispatcher": LocalDispatcher(receiver.port),
            "event_processor_options": {"batch_size": 50, "flush_interval": 60},
        }
        watcher = make_watcher(optimizely_options=options)
        watcher.start()
        watcher.optimizely.track("bought", "parent")
        instance = watcher.optimizely  # a child may also have kept the instance and never ask the watcher
        assert reap([in_child(lambda: instance.track("bought", "child"))]) == [0]
        assert list(receiver.users) == ["child"]
        watcher.stop()
        assert receiver.users == {"child": 1, "parent": 1}


class Processor(BatchEventProcessor):
    """An app's own kind of it."""


@pytest.mark.parametrize("kind", [BatchEventProcessor, Processor])
@pytest.mark.parametrize("is_used_before", [False, True])
def test_an_apps_own_event_processor_works_in_children_and_after_a_restart(
    kind: type[BatchEventProcessor], is_used_before: bool, directory: Path, make_watcher: MakeWatcher
) -> None:
    """A user who brings an event processor loses no event of a child, nor one after stop() and start()."""
    publish(directory, 1)
    with Receiver() as receiver:
        own = kind(LocalDispatcher(receiver.port), start_on_init=True, batch_size=1)
        watcher = make_watcher(optimizely_options={"event_processor": own})
        watcher.start()
        if is_used_before:
            watcher.optimizely.track("bought", "parent")
        assert reap([in_child(lambda: watcher.optimizely.track("bought", "child"))]) == [0]
        watcher.stop()
        watcher.start()
        watcher.optimizely.track("bought", "again")
        watcher.stop()
        assert receiver.users == {"child": 1, "again": 1} | ({"parent": 1} if is_used_before else {})


def test_a_forked_child_sees_what_changed_before_its_first_use(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user's child decides by the newest datafile at its very first use, however late that is."""
    publish(directory, 1)
    watcher = make_watcher()
    watcher.start()

    def work() -> None:
        wait_until(lambda: b'"revision": "2"' in (directory / "KEY1.json").read_bytes())
        assert watcher.revision == 2

    child = in_child(work)
    publish(directory, 2)
    assert reap([child]) == [0]


def test_threads_that_come_at_once_in_a_child_are_told_of_no_trouble(
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
        assert seen == [2] * 8
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

    assert reap([in_child(work)], timeout=15) == [0]


def test_a_child_of_a_paused_parent_collects_garbage() -> None:
    """A user's child that was forked in the midst of a build has its garbage collector on."""

    def work() -> None:
        assert gc.isenabled()

    with collection_paused():
        child = in_child(work)
    assert reap([child]) == [0]
    assert gc.isenabled()


def test_an_inherited_lock_holds_no_child() -> None:
    """A user's child makes its own value even if the fork came while the parent was making one."""
    entered, leave = threading.Event(), threading.Event()

    def make(_: int | None) -> int:
        if os.getpid() == parent:
            entered.set()
            leave.wait(10)
        return os.getpid()

    parent = os.getpid()
    value = PerProcess(make)
    with running([threading.Thread(target=value.get)]):
        assert entered.wait(5)

        def work() -> None:
            assert value.get() == os.getpid()

        assert reap([in_child(work)], timeout=5) == [0]
        leave.set()
    assert value.get() == parent


def test_one_process_makes_one_value() -> None:
    """A user's threads that come at once in a new child share one event processor and one watching thread."""
    made = []

    def make(_: object) -> object:
        time.sleep(0.05)
        made.append(object())
        return made[-1]

    value = PerProcess(make)
    got: list[object] = []
    with running([threading.Thread(target=lambda: got.append(value.get())) for _ in range(8)]):
        pass
    assert len(made) == 1
    assert got == made * 8


FORKING = """
import os, sys, time
from datafile_client import OptimizelyWatcher
from tests.client.helpers import publish
from pathlib import Path
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
        os._exit(0 if watcher.wait_for_revision(2, timeout=2) else 1)
    children.append(child)
publish(directory, 2)
print(sum(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
"""


@pytest.mark.system
def test_a_fork_right_after_start_leaves_no_child_deaf(directory: Path) -> None:
    """A user's master may fork while its watching thread is only just beginning; chance decides, so it is done often."""
    run = [sys.executable, "-W", "ignore", "-c", FORKING, str(directory)]
    for _ in range(30):
        done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
        assert (done.stdout, done.stderr) == ("0\n", "")


SCRIPT = """
import sys
from datafile_client import OptimizelyWatcher
from tests.client.helpers import LocalDispatcher
watcher = OptimizelyWatcher(
    sdk_key="KEY1", directory=sys.argv[1], optimizely_options={"event_dispatcher": LocalDispatcher(int(sys.argv[2]))}
)
watcher.start()
for number in range(50):
    watcher.optimizely.track("bought", str(number))
"""


@pytest.mark.parametrize("ending", ["", "sys.exit(3)", "raise ValueError('oops')"])
def test_events_are_sent_at_exit_without_stop(ending: str, directory: Path) -> None:
    """A user's script that just ends, in whatever way, has sent its events; its exit code and output are its own."""
    publish(directory, 1)
    with Receiver() as receiver:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", SCRIPT + ending, directory, str(receiver.port)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        assert receiver.users == {str(number): 1 for number in range(50)}
    assert done.returncode == {"": 0, "sys.exit(3)": 3}.get(ending, 1)
    assert ("oops" in done.stderr) == ("oops" in ending)
    assert "Fatal" not in done.stderr
    assert done.stderr == "" or "oops" in ending


def test_signals_are_the_apps(directory: Path) -> None:
    """A user's own handlers run exactly once, and nothing of ours delays the exit (trap 49)."""
    publish(directory, 1)
    code = (
        SCRIPT
        + (
            "import signal, time, os\n"
            "def leave(number, _): print('handled', number); sys.exit(7)\n"
            "signal.signal(signal.SIGTERM, leave)\n"
            "print('up', flush=True)\n"
            "for _ in range(300): time.sleep(0.1)\n"  # the interpreter may overlook a signal that comes just before one long sleep
        )
    )
    with (
        Receiver() as receiver,
        subprocess.Popen(
            [sys.executable, "-c", code, directory, str(receiver.port)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        ) as app,
    ):
        assert app.stdout is not None
        assert app.stdout.readline() == "up\n"
        started = time.monotonic()
        app.send_signal(signal.SIGTERM)
        assert app.stdout.read() == "handled 15\n"
        assert app.wait(5) == 7
        assert time.monotonic() - started < 2
        assert len(receiver.users) == 50


def _track(directory: Path, port: int, name: str) -> None:
    watcher = OptimizelyWatcher(
        sdk_key="KEY1", directory=directory, optimizely_options={"event_dispatcher": LocalDispatcher(port)}
    )
    watcher.start()
    for number in range(10):
        watcher.optimizely.track("bought", f"{name}-{number}")


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_children_of_multiprocessing_send_their_events(method: str, directory: Path) -> None:
    """A user's multiprocessing children, which leave without exit handlers, have sent all that they tracked."""
    publish(directory, 1)
    context: Any = multiprocessing.get_context(method)
    with Receiver() as receiver:
        children = [
            context.Process(target=_track, args=(directory, receiver.port, f"child{number}")) for number in range(2)
        ]
        for child in children:
            child.start()
        for child in children:
            child.join(20)
            assert child.exitcode == 0
        assert len(receiver.users) == 20
        assert set(receiver.users.values()) == {1}


MAIN = """
import sys
from datafile_client import OptimizelyWatcher
from tests.client.helpers import LocalDispatcher
options = {"event_dispatcher": LocalDispatcher(int(sys.argv[2]))}
watcher = OptimizelyWatcher(sdk_key="KEY1", directory=sys.argv[1], optimizely_options=options)
watcher.start()
instance = watcher.optimizely
import multiprocessing
def work(name):
    for number in range(5):
        instance.track("bought", f"{name}-{number}")
if __name__ == "__main__":
    children = [multiprocessing.get_context(sys.argv[3]).Process(target=work, args=(name,)) for name in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join()
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_children_that_know_only_the_main_modules_instance_send_their_events(
    method: str, directory: Path, tmp_path: Path
) -> None:
    """A user whose main module starts the watcher, before anything imports multiprocessing, loses no child's event."""
    publish(directory, 1)
    script = tmp_path / "main.py"
    script.write_text(MAIN)
    with Receiver() as receiver:
        done = subprocess.run(
            [sys.executable, script, directory, str(receiver.port), method],
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert receiver.users == {f"{name}-{number}": 1 for name in range(2) for number in range(5)}
