"""Events are sent when a process ends, whichever way it ends."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.client.forking import track_ten_events
from tests.client.helpers import ROOT, Receiver, publish

SCRIPT = """
import sys
from datafile_client import OptimizelyWatcher
from tests.client.helpers import patient_options
watcher = OptimizelyWatcher(
    sdk_key="KEY1", directory=sys.argv[1], optimizely_options=patient_options(int(sys.argv[2]))
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
            timeout=50,
            check=False,
        )
        assert receiver.users == {str(number): 1 for number in range(50)}
    assert done.returncode == {"": 0, "sys.exit(3)": 3}.get(ending, 1)
    assert ("oops" in done.stderr) == ("oops" in ending)
    assert "Fatal" not in done.stderr
    assert done.stderr == "" or "oops" in ending


def test_signals_are_the_apps(directory: Path) -> None:
    """A user's own handlers run exactly once, and nothing of ours delays the exit."""
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
        assert app.wait(20) == 7
        assert time.monotonic() - started < 10  # an event processor that is waited for in vain takes 50 s
        assert len(receiver.users) == 50


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_children_of_multiprocessing_send_their_events(method: str, directory: Path) -> None:
    """A user's multiprocessing children, which leave without exit handlers, have sent all that they tracked."""
    publish(directory, 1)
    context: Any = multiprocessing.get_context(method)
    with Receiver() as receiver:
        children = [
            context.Process(target=track_ten_events, args=(directory, receiver.port, f"child{number}"))
            for number in range(2)
        ]
        for child in children:
            child.start()
        for child in children:
            child.join(50)
            assert child.exitcode == 0
        assert len(receiver.users) == 20
        assert set(receiver.users.values()) == {1}


MAIN = """
import sys
from datafile_client import OptimizelyWatcher
from tests.client.helpers import patient_options
options = patient_options(int(sys.argv[2]))
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
            timeout=50,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert receiver.users == {f"{name}-{number}": 1 for name in range(2) for number in range(5)}
