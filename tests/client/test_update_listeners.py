"""Callbacks: on a thread of their own, one after the other, each for the newest instance."""

import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from datafile_client import FlagChanges
from datafile_client._update_listeners import Listener
from datafile_client.testing import make_datafile, write_datafile
from tests.client.conftest import MakeWatcher
from tests.client.helpers import publish, wait_until


def one(_: object) -> None: ...


def two(_: object, __: object) -> None: ...


def optional(_: object, __: object = None) -> None: ...


def three(_: object, __: object, ___: object) -> None: ...


class Bound:
    def two(self, _: object, __: object) -> None: ...

    def __call__(self, _: object) -> None: ...


KINDS: dict[str, tuple[Callable[..., object], bool]] = {
    "one": (one, False),
    "two": (two, True),
    "optional": (optional, False),
    "a partial of three": (partial(three, 1), True),
    "a bound method": (Bound().two, True),
    "an instance": (Bound(), False),
    "a mock": (Mock(), False),
    "a method in C": ([].append, False),
    "a class in C": (dict, False),
    "print": (print, False),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_callback_that_needs_two_arguments_gets_the_changes(kind: str) -> None:
    """A user's callback of any kind is called with what it takes."""
    callback, wants = KINDS[kind]
    assert Listener.of(callback).wants_changes is wants


def test_the_changes_since_its_last_call_are_told(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user learns which flags are new, gone and changed, also over revisions that a slow callback has missed."""
    seen: list[FlagChanges] = []
    entered, release = threading.Event(), threading.Event()

    def listen(_: object, changes: FlagChanges) -> None:
        seen.append(changes)
        entered.set()
        release.wait(20)

    def put(revision: int, **flags: bool) -> None:
        write_datafile(directory, "KEY1", make_datafile(flags, revision=revision))

    put(1, a=True, b=True)
    watcher = make_watcher()
    watcher.start()
    watcher.on_update(listen)
    assert entered.wait(20)
    for revision in range(2, 6):
        put(revision, a=False, c=True)
        assert watcher.wait_for_revision(revision, timeout=20), "a slow callback does not stop the watch"
    release.set()
    wait_until(lambda: len(seen) == 2)
    nothing: frozenset[str] = frozenset()
    assert seen == [
        FlagChanges(frozenset({"a", "b"}), nothing, nothing),
        FlagChanges(frozenset({"c"}), frozenset({"b"}), frozenset({"a"})),
    ]


def test_calls_come_one_after_the_other_and_end_on_the_newest(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user's callbacks never run at the same time, never go back, and see the newest revision in the end."""
    publish(directory, 1)
    watcher = make_watcher()
    running, together, revisions = [0], [0], list[int]()

    def listen(optimizely: Any) -> None:
        running[0] += 1
        together[0] = max(together[0], running[0])
        revisions.append(int(optimizely.config_manager.get_config().revision))
        time.sleep(0.03)
        running[0] -= 1

    watcher.on_update(listen)
    watcher.on_update(lambda _: listen(_))
    watcher.start()
    for revision in range(2, 30):
        publish(directory, revision)
        time.sleep(0.01)
    wait_until(lambda: revisions.count(29) == 2)
    assert together == [1]
    assert revisions == sorted(revisions)
    wait_until(lambda: not [thread for thread in threading.enumerate() if thread.name == "datafile callbacks"])
