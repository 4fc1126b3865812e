"""`stop()` from anywhere: a signal handler, a callback, two threads at once."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from optimizely.helpers.enums import NotificationTypes

from datafile_client._stopping import Stopping
from tests.client.conftest import MakeWatcher
from tests.client.helpers import ROOT, Receiver, patient_options, publish, running, wait_until

SIGNALS = """
import faulthandler, logging, random, signal, sys, tempfile, time
from datafile_client import OptimizelyWatcher
from datafile_client.testing import make_datafile, write_datafile

class Nowhere:
    def dispatch_event(self, event):
        pass

logging.disable(logging.CRITICAL)
directory = tempfile.mkdtemp()
write_datafile(directory, "k", make_datafile({"f": True}, events=["e"]))
options = {"event_dispatcher": Nowhere(), "event_processor_options": {"batch_size": 100, "timeout_interval": 0.5}}
watcher = OptimizelyWatcher(sdk_key="k", directory=directory, optimizely_options=options)
watcher.start()
chosen, longest, count = random.Random(1), 0.0, 0

def restart(*_):
    global longest, count
    faulthandler.dump_traceback_later(10, exit=True)
    began = time.monotonic()
    watcher.stop()
    longest = max(longest, time.monotonic() - began)
    watcher.start(0)
    faulthandler.cancel_dump_traceback_later()
    count += 1
    signal.setitimer(signal.ITIMER_REAL, chosen.uniform(0.001, 0.004))

signal.signal(signal.SIGALRM, restart)
signal.setitimer(signal.ITIMER_REAL, 0.01)
user, ends_at = watcher.user("u"), time.monotonic() + 8
while time.monotonic() < ends_at:
    user.track_event("e")
signal.setitimer(signal.ITIMER_REAL, 0)
print(count, longest)
"""


def test_a_signal_handler_may_stop_and_start_the_watcher(tmp_path: Path) -> None:
    """A user whose SIGTERM handler calls stop() ends in the promised time, whatever the signal has interrupted."""
    command = [sys.executable, "-c", SIGNALS]
    done = subprocess.run(
        command, cwd=ROOT, env={"TMPDIR": str(tmp_path)}, capture_output=True, timeout=50, check=False
    )
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    count, longest_s = done.stdout.split()
    assert int(count) > 20
    assert float(longest_s) < 1 + 0.5 + 1


def test_a_listener_of_the_sdk_may_stop_it(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user's LOG_EVENT listener, on the thread that sends events, may call stop()."""
    publish(directory, 1)
    with Receiver() as receiver:
        watcher = make_watcher(optimizely_options=patient_options(receiver.port))
        watcher.start()
        ended = threading.Event()

        def stop(*_: object) -> None:
            watcher._builder.shared._processor_options["timeout_interval"] = 1
            watcher.stop()
            ended.set()

        watcher.optimizely.notification_center.add_notification_listener(NotificationTypes.LOG_EVENT, stop)
        watcher.optimizely.track("bought", "user")
        assert ended.wait(20)
        wait_until(lambda: receiver.users == {"user": 1})


def test_a_second_stop_waits_for_the_first(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user whose process ends while a thread still stops the watcher loses no event."""
    publish(directory, 1)
    with Receiver() as receiver:
        watcher = make_watcher(optimizely_options=patient_options(receiver.port))
        watcher.start()
        for number in range(50):
            watcher.optimizely.track("bought", f"user-{number}")
        with running([threading.Thread(target=watcher.stop)]):
            wait_until(lambda: not watcher._started)
            watcher.stop()
            assert len(receiver.users) == 50


@pytest.mark.parametrize("by_another", [True, False])
def test_only_another_thread_waits(by_another: bool) -> None:
    """A signal handler does not wait for the very frame that it has interrupted."""
    stopping = Stopping()
    began = time.monotonic()
    if by_another:
        with running([threading.Thread(target=stopping.wait, args=(0.3,))]):
            pass
    else:
        stopping.wait(30)
    assert (time.monotonic() - began >= 0.3) is by_another
    stopping.end()


def test_a_start_that_overtakes_a_stop_holds(
    directory: Path, make_watcher: MakeWatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user whose signal handler starts the watcher, while its own thread is in the midst of stop(), loses no later event."""
    publish(directory, 1)
    with Receiver() as receiver:
        watcher = make_watcher(optimizely_options=patient_options(receiver.port))
        watcher.start()
        state = watcher._process_state.get()
        stop = state.stop

        def interrupted() -> None:
            stop()
            watcher.stop()
            watcher.start()

        monkeypatch.setattr(state, "stop", interrupted)
        watcher.stop()
        watcher.optimizely.track("bought", "user")
        wait_until(lambda: receiver.users == {"user": 1})


def test_stop_takes_at_most_a_second_beside_a_build_that_hangs(
    directory: Path, make_watcher: MakeWatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user whose SDK hangs in a build, as in a log handler that does not return, can still shut down."""
    publish(directory, 1)
    watcher = make_watcher()
    watcher.start()
    entered, release = threading.Event(), threading.Event()

    def hangs(*_: object, **__: object) -> None:
        entered.set()
        release.wait(30)

    monkeypatch.setattr(watcher._builder, "build", hangs)
    publish(directory, 2)
    assert entered.wait(20)
    began = time.monotonic()
    watcher.stop()
    took_s = time.monotonic() - began
    release.set()
    assert took_s < 2
