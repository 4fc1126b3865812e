"""Forks: each process makes its own values, follows the datafile, and never waits for a parent's lock."""

import os
import threading
import time
from pathlib import Path

from datafile_client._per_process import PerProcess
from tests.client.conftest import MakeWatcher
from tests.client.forking import in_child, reap
from tests.client.helpers import Receiver, patient_options, publish, running, wait_until


def test_forked_children_follow_and_send_their_own_events(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user of a preloading server gets new flags and every event once from each child, forked amid swaps."""
    publish(directory, 1)
    with Receiver() as receiver:
        watcher = make_watcher(optimizely_options=patient_options(receiver.port))
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
            assert watcher.wait_for_revision(10_000, timeout=20)
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


def test_an_inherited_lock_holds_no_child() -> None:
    """A user's child makes its own value even if the fork came while the parent was making one."""
    entered, leave = threading.Event(), threading.Event()

    def make(_: int | None) -> int:
        if os.getpid() == parent:
            entered.set()
            leave.wait(40)
        return os.getpid()

    parent = os.getpid()
    value = PerProcess(make)
    with running([threading.Thread(target=value.get)]):
        assert entered.wait(5)

        def work() -> None:
            assert value.get() == os.getpid()

        assert reap([in_child(work)], timeout=20) == [0]
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


def test_a_signal_handler_may_ask_while_its_thread_makes_the_value() -> None:
    """A user's signal handler that interrupts the first use does not wait for the frame that it has interrupted."""
    made: list[str] = []

    def make(_: str | None) -> str:
        made.append("made")
        if len(made) == 1:
            assert value.get() == "value 2"  # what the handler does
        return f"value {len(made)}"

    value: PerProcess[str] = PerProcess(make)
    assert value.get() == "value 2"
    assert value.get() == "value 2"
