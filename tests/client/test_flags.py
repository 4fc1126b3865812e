"""Flags of one test: the watcher is a real one, and decides in memory."""

import asyncio
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from optimizely.event.user_event import ConversionEvent, ImpressionEvent

from datafile_client import FlagChanges, OptimizelyWatcher
from datafile_client.testing import Flags
from tests.client.forking import in_child, reap
from tests.client.helpers import is_on


def test_the_watcher_is_the_one_that_apps_use() -> None:
    """A user tests the code that runs in production: no subclass, no mock."""
    with Flags() as flags:
        assert type(flags.watcher) is OptimizelyWatcher
        assert flags.watcher is flags.watcher
        assert flags.watcher.ready


def test_a_change_is_in_use_when_set_returns() -> None:
    """A user writes set and decide one after the other, and waits for nothing."""
    with Flags() as flags:
        assert not is_on(flags.watcher)
        for on in (True, False, True):
            flags.set("checkout", on)
            assert is_on(flags.watcher) is on
        flags.remove("checkout")
        assert not is_on(flags.watcher)
        assert flags.watcher.revision == 5
        assert flags.watcher.wait_for_revision(5, timeout=0)


def test_later_calls_replace_what_earlier_ones_have_set_for_the_same_people() -> None:
    """A user sets a default in a fixture and something else in a test."""
    with Flags() as flags:
        flags.set("checkout", variables={"n": 1})
        flags.set("checkout", variables={"n": 2}, user="u1")
        flags.set("checkout", variables={"n": 3}, audience={"country": "de"})
        decided = [flags.watcher.user(user, attributes).decide("checkout").variables["n"]
                   for user, attributes in (("u1", None), ("u2", {"country": "de"}), ("u2", {}))]  # fmt: skip
        assert decided == [2, 3, 1]
        flags.set("checkout", on=False, variables={"n": 4}, user="u1")
        flags.set("checkout", on=False, variables={"n": 4})
        flags.set("checkout", variables={"n": 5}, audience={"country": "de"})
        decided = [flags.watcher.user(user, attributes).decide("checkout").variables["n"]
                   for user, attributes in (("u1", None), ("u2", {"country": "de"}), ("u2", {}))]  # fmt: skip
        assert decided == [4, 5, 4]


def test_percentages_add_up_to_a_split_until_one_call_is_for_all() -> None:
    """A user builds an experiment by one call a variation, and ends it by one call."""
    with Flags() as flags:
        for variation, percentage in (("red", 50), ("blue", 20), ("blue", 50)):
            flags.set("checkout", variation=variation, percentage=percentage)
        seen = {flags.watcher.user(f"user-{number}").decide("checkout").variation_key for number in range(100)}
        assert seen == {"red", "blue"}
        flags.set("checkout", variation="green")
        assert {flags.watcher.user(f"user-{number}").decide("checkout").variation_key for number in range(100)} == {
            "green"
        }
        flags.set("checkout", variation="red", percentage=1)
        assert None in {flags.watcher.user(f"user-{number}").decide("checkout").variation_key for number in range(100)}


def test_a_mistake_is_told_at_once_and_changes_nothing() -> None:
    """A user reads which flag is wrong, in the line that sets it."""
    with Flags() as flags:
        flags.set("checkout")
        with pytest.raises(ValueError, match="flag 'checkout': 'percentage' must be a number from 0 to 100"):
            flags.set("checkout", percentage=101)
        assert is_on(flags.watcher)
        assert flags.watcher.revision == 2


def test_callbacks_are_called_in_place() -> None:
    """A user tests a callback without waiting for a thread, also one that sets a flag itself."""
    with Flags() as flags:
        changes: list[FlagChanges] = []
        threads: set[int] = set()

        def note(_: object, change: FlagChanges) -> None:
            threads.add(threading.get_ident())
            changes.append(change)
            if len(changes) == 2:
                flags.set("third")

        flags.watcher.on_update(note)
        flags.set("second")
        assert [sorted(change.added) for change in changes] == [[], ["second"], ["third"]]
        assert threads == {threading.get_ident()}


def test_nothing_is_sent_and_everything_is_kept() -> None:
    """A user sees what the app would have sent, and a test run sends nothing to Optimizely."""
    with Flags() as flags:
        flags.accept_events("bought")
        flags.set("checkout", user="u1")
        user = flags.watcher.user("u1")
        user.decide("checkout")
        user.track_event("bought", {"revenue": 5})  # type: ignore[arg-type]  # a NewType of dict
        user.track_event("unknown")
    impression, conversion = flags.events
    assert isinstance(impression, ImpressionEvent)
    assert (impression.flag_key, impression.user_id) == ("checkout", "u1")
    assert isinstance(conversion, ConversionEvent)
    assert conversion.event is not None
    assert (conversion.event.key, conversion.event_tags) == ("bought", {"revenue": 5})


def test_there_is_no_file_no_thread_and_no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's tests need no folder, leave no thread, and run where sockets are forbidden."""
    touched: list[str] = []
    watched: int | None = threading.get_ident()
    kinds = ("open", "os.mkdir", "os.rename", "os.listdir", "os.scandir", "socket.", "subprocess.", "thread")

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        if threading.get_ident() == watched and event.startswith(kinds):
            touched.append(f"{event} {arguments}")

    with Flags() as flags:  # what is imported on first use is read
        flags.watcher.user("u1").decide("checkout")
    sys.addaudithook(note)  # there is no way to remove one
    monkeypatch.setattr(threading.Thread, "start", lambda thread: note("thread", (thread,)))
    with Flags() as flags:
        flags.set("checkout", user="u1")
        flags.watcher.on_update(lambda _: None)
        flags.set("checkout")
        assert is_on(flags.watcher)
        assert flags.watcher.status().revision == 3
    assert touched == []
    with Path("/proc/self/stat").open():
        threading.Thread().start()
    assert [event.split()[0] for event in touched] == ["open", "thread"]  # so it would have been seen
    watched = None


def test_a_watcher_without_a_thread_misses_none(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user whose test takes long reads no warning of a thread that is missing."""
    with Flags() as flags:
        assert flags.watcher.ready
        later = time.clock_gettime(time.CLOCK_MONOTONIC) + 60
        monkeypatch.setattr(time, "clock_gettime", lambda _: later)
        flags.set("checkout")
        assert is_on(flags.watcher)
        assert caplog.text == ""


def test_it_starts_and_stops_like_any_other() -> None:
    """A user tests an app's own start and stop with the same watcher."""
    with Flags() as flags:
        flags.set("checkout")
        with flags.watcher as watcher:
            assert is_on(watcher)
        assert not flags.watcher.ready
        flags.set("checkout", on=False)
        seen: list[int] = []
        flags.watcher.on_update(lambda _: seen.append(flags.watcher.revision))
        assert seen == []
        flags.watcher.start()
        assert seen == [3]
        assert not is_on(flags.watcher)

        async def app() -> bool:
            async with flags.watcher as watcher:
                return watcher.ready

        assert asyncio.run(app())


def test_a_child_goes_on_with_its_own_flags() -> None:
    """A user tests code that forks: a child has the flags, and what it sets stays in it."""
    with Flags() as flags:
        flags.set("checkout")
        seen: list[int] = []
        flags.watcher.on_update(lambda _: seen.append(os.getpid()))

        def work() -> None:
            flags.set("checkout", on=False)
            assert seen[-1] == os.getpid()
            assert not is_on(flags.watcher)

        assert reap([in_child(work)]) == [0]
        assert is_on(flags.watcher)
        assert seen == [os.getpid()]


def test_options_are_the_apps_own(tmp_path: Path) -> None:
    """A user passes the same options as in production."""
    with Flags(optimizely_options={"default_decide_options": ["EXCLUDE_VARIABLES"]}) as flags:
        flags.set("checkout", variables={"n": 1})
        assert flags.watcher.user("u1").decide("checkout").variables == {}
