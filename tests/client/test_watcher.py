"""The watcher as an app sees it: files in, decisions out."""

import asyncio
import contextlib
import datetime
import logging
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from optimizely.helpers import validator

from datafile_client import DatafileUnavailableError, InvalidOptionError, OptimizelyWatcher
from datafile_client.testing import make_datafile, write_datafile
from tests.client.conftest import MakeWatcher
from tests.client.helpers import LocalDispatcher, Receiver, decide, publish, running, vouch, wait_until


def is_on(watcher: OptimizelyWatcher, flag: str = "checkout") -> bool:
    """Ask the watcher's present instance for a decision."""
    return bool(decide(watcher.optimizely, flag).enabled)


def watching() -> list[threading.Thread]:
    """Return the threads that watch KEY1 in this process."""
    return [thread for thread in threading.enumerate() if thread.name == "datafile KEY1"]


def test_each_replacement_is_decided_by(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user gets the newest flags after every rename, not only after the first (trap 39)."""
    publish(directory, 1)
    watcher = make_watcher()
    watcher.start(timeout=5)
    assert is_on(watcher)
    for revision in range(2, 6):
        publish(directory, revision)
        assert watcher.wait_for_revision(revision, timeout=5)
        assert is_on(watcher) == (revision % 2 == 1)
        assert watcher.revision == revision


def test_other_bytes_under_the_same_revision_are_decided_by(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user gets the new flags even where the revision has not moved."""
    publish(directory, 1)
    watcher = make_watcher()
    watcher.start(timeout=5)
    publish(directory, 1, checkout=False)
    wait_until(lambda: not is_on(watcher))
    assert watcher.revision == 1


def test_the_same_bytes_are_no_news(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user keeps the very same instance when a file is replaced by its equal."""
    publish(directory, 1)
    watcher = make_watcher()
    watcher.start(timeout=5)
    before = watcher.optimizely
    publish(directory, 1)
    time.sleep(0.5)
    assert watcher.optimizely is before


def test_start_fails_when_nothing_comes_and_goes_on_watching(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user is told at once what is missing and where, and can carry on until the datafile comes."""
    watcher = make_watcher()
    started = time.monotonic()
    with pytest.raises(DatafileUnavailableError, match=r"KEY1.*No such file.*KEY1\.json.*sidecar") as caught:
        watcher.start(timeout=0.3)
    assert 0.3 <= time.monotonic() - started < 2
    assert caught.value.sdk_key == "KEY1"
    for use in (lambda: watcher.optimizely, lambda: watcher.revision):
        with pytest.raises(DatafileUnavailableError, match="none has come yet"):
            use()
    publish(directory, 1)
    assert watcher.wait_for_revision(1, timeout=5)
    assert is_on(watcher)
    assert watcher.status().last_error is None


def test_start_waits_for_a_late_datafile(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user whose app starts before the sidecar waits no longer than the datafile takes."""
    watcher = make_watcher()
    timer = threading.Timer(0.4, publish, (directory, 1))
    timer.start()
    watcher.start(timeout=10)
    timer.join()
    assert watcher.revision == 1


def test_a_timeout_of_zero_never_waits(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user who does not want to wait does not, and still gets a datafile that is there."""
    watcher = make_watcher()
    started = time.monotonic()
    with pytest.raises(DatafileUnavailableError):
        watcher.start(timeout=0)
    assert time.monotonic() - started < 0.5
    publish(directory, 1)
    other = make_watcher()
    other.start(timeout=0)
    assert other.revision == 1


def test_before_start_there_is_nothing(make_watcher: MakeWatcher, directory: Path) -> None:
    """A user who forgot start() is told so."""
    publish(directory, 1)
    with pytest.raises(DatafileUnavailableError, match=r"is not running, call start\(\)"):
        make_watcher().optimizely  # noqa: B018 - the property is what is asked
    assert make_watcher().wait_for_revision(1, timeout=5) is False


def test_the_fallback_decides_until_a_datafile_comes(
    directory: Path, tmp_path: Path, make_watcher: MakeWatcher
) -> None:
    """A user decides by the fallback when nothing came in time, and by the real datafile as soon as it is there."""
    fallback = tmp_path / "fallback.json"
    fallback.write_bytes(make_datafile({"checkout": True}, revision=7))
    watcher = make_watcher(fallback=fallback)
    watcher.start(timeout=0.1)
    assert (watcher.revision, watcher.status().source) == (7, "fallback")
    publish(directory, 2)
    wait_until(lambda: watcher.revision == 2)
    assert watcher.status().source == "file"


def test_a_broken_fallback_is_no_help(
    tmp_path: Path, make_watcher: MakeWatcher, caplog: pytest.LogCaptureFixture
) -> None:
    """A user with an unusable fallback gets the same error as without, and reads why."""
    fallback = tmp_path / "fallback.json"
    fallback.write_text("{}")
    with pytest.raises(DatafileUnavailableError):
        make_watcher(fallback=fallback).start(timeout=0)
    assert "fallback.json" in caplog.text


def test_with_starts_and_stops(directory: Path) -> None:
    """A user of `with` has a running watcher inside the block and no thread after it."""
    publish(directory, 1)
    with OptimizelyWatcher(sdk_key="KEY1", directory=directory) as watcher:
        assert watcher.revision == 1
        assert watching()
    assert not watching()


async def test_async_with_leaves_the_loop_free(directory: Path) -> None:
    """A user of asyncio waits for the datafile without stopping the loop."""
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0.01)

    ticker = asyncio.create_task(tick())
    timer = threading.Timer(0.3, publish, (directory, 1))
    timer.start()
    async with OptimizelyWatcher(sdk_key="KEY1", directory=directory) as watcher:
        assert watcher.revision == 1
        assert ticks > 10
    timer.join()
    ticker.cancel()


async def test_a_cancelled_start_leaves_nothing_behind(directory: Path) -> None:
    """A user who gives up waiting in asyncio is not held by a thread that still waits."""
    for number in range(45):  # at ever other moments of the start
        watcher = OptimizelyWatcher(sdk_key="KEY1", directory=directory)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.00002 * number):
                await watcher.__aenter__()
        with pytest.raises(DatafileUnavailableError, match=r"is not running, call start\(\)"):
            watcher.optimizely  # noqa: B018 - the property is what is asked
    await asyncio.sleep(0.2)
    assert not watching()


def test_after_stop_the_last_instance_decides_on_and_start_works_again(
    directory: Path, make_watcher: MakeWatcher
) -> None:
    """A user can decide to the very end, may stop twice, and may start again."""
    publish(directory, 1)
    watcher = make_watcher()
    watcher.start()
    watcher.stop()
    watcher.stop()
    publish(directory, 2)
    time.sleep(0.4)
    assert watcher.revision == 1
    assert is_on(watcher)
    watcher.start()
    assert watcher.revision == 2


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
            assert not watching()
    finally:
        sys.setswitchinterval(interval)


def test_a_start_amid_a_stop_is_a_start(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user who starts the watcher while another thread is still stopping it follows, and sends events."""
    publish(directory, 1)
    with Receiver() as receiver:
        watcher = make_watcher(optimizely_options={"event_dispatcher": LocalDispatcher(receiver.port)})
        watcher.start()
        entered = threading.Event()

        def hold(_: object) -> None:
            entered.set()
            time.sleep(0.5)

        watcher.on_update(hold)()
        watcher.on_update(hold)
        assert entered.wait(5)
        with running([threading.Thread(target=watcher.stop)]):
            time.sleep(0.1)
            watcher.start()
        publish(directory, 2)
        assert watcher.wait_for_revision(2, timeout=5)
        watcher.optimizely.track("bought", "user")
        wait_until(lambda: receiver.users == {"user": 1})


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
    assert threading.active_count() == threads
    wait_until(lambda: len(os.listdir("/proc/self/fd")) <= descriptors)


def test_listeners_are_told_on_the_watchers_thread(
    directory: Path, make_watcher: MakeWatcher, caplog: pytest.LogCaptureFixture
) -> None:
    """A user is told of the present instance and of each later one, after the swap; a failing listener hurts nobody."""
    publish(directory, 1)
    watcher = make_watcher()
    told: list[tuple[str, bool]] = []

    def fails(_: Any) -> None:
        sys.exit("listener trouble")  # the worst that it can raise: it would end the thread without a word

    def listen(optimizely: Any) -> None:
        told.append((threading.current_thread().name, watcher.optimizely is optimizely))

    watcher.on_update(fails)
    watcher.start()
    remove = watcher.on_update(listen)
    wait_until(lambda: len(told) == 1, 0.9)
    publish(directory, 2)
    wait_until(lambda: len(told) == 2)
    remove()
    remove()
    publish(directory, 3)
    assert watcher.wait_for_revision(3)
    time.sleep(0.1)
    assert told == [("datafile KEY1", True)] * 2
    assert caplog.text.count("callback failed at revision") == 3


def test_a_removed_listener_is_not_told_any_more(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user who removes a listener, even while others are being told, does not hear from it again."""
    publish(directory, 1)
    watcher = make_watcher()
    told: list[str] = []
    removers: list[Any] = []

    def first(_: object) -> None:
        told.append("first")
        removers[0]()

    def last(_: object) -> None:
        told.append("last")

    watcher.on_update(first)
    removers.append(watcher.on_update(lambda _: told.append("removed")))
    watcher.on_update(last)
    watcher.start()
    wait_until(lambda: "last" in told)
    assert told == ["first", "last"]


def test_a_listener_may_stop_the_watcher(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user may call stop() from a callback without a deadlock."""
    publish(directory, 1)
    watcher = make_watcher()
    watcher.start()
    done = threading.Event()

    def stop(_: object) -> None:
        watcher.stop()
        done.set()

    watcher.on_update(stop)
    assert done.wait(3)


def test_a_thread_that_is_held_up_is_stood_in_for(
    directory: Path, make_watcher: MakeWatcher, caplog: pytest.LogCaptureFixture
) -> None:
    """A user whose watching thread gets no time still decides by the newest flags, and reads one warning (trap 43)."""
    publish(directory, 1)
    watcher = make_watcher()
    watcher.start()
    entered, release = threading.Event(), threading.Event()

    def hold(_: object) -> None:
        entered.set()
        release.wait(20)

    watcher.on_update(hold)
    assert entered.wait(5)
    publish(directory, 2)
    assert watcher.wait_for_revision(2, timeout=6)
    assert is_on(watcher) is False
    release.set()
    assert caplog.text.count("The watching thread is held up") == 1


def test_a_slow_build_holds_no_request(
    directory: Path, make_watcher: MakeWatcher, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user on a starved node, where a build takes seconds, decides by the last flags meanwhile, without an alarm."""
    monkeypatch.setattr("datafile_client._watcher._LATE_S", 0.3)
    check, building, built = validator.is_datafile_valid, threading.Event(), threading.Event()
    publish(directory, 1)
    watcher = make_watcher()
    watcher.start()

    def slow(data: bytes) -> bool:
        building.set()
        built.wait(20)
        return check(data)

    monkeypatch.setattr(validator, "is_datafile_valid", slow)
    publish(directory, 2)
    assert building.wait(5)
    time.sleep(0.5)
    started = time.monotonic()
    assert watcher.revision == 1
    assert time.monotonic() - started < 0.2
    built.set()
    assert watcher.wait_for_revision(2)
    assert "held up" not in caplog.text


def test_a_process_that_gets_no_thread_decides_all_the_same(
    directory: Path, make_watcher: MakeWatcher, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user whose container is out of threads gets the newest flags at each use, and reads one warning."""
    monkeypatch.setattr("datafile_client._watcher._LATE_S", 0.1)
    publish(directory, 1)
    watcher = make_watcher()
    size = threading.stack_size(1 << 47)  # more than a process can have
    try:
        watcher.start()
    finally:
        threading.stack_size(size)
    assert not watching()
    publish(directory, 2)
    assert watcher.wait_for_revision(2, timeout=2)
    watcher.stop()
    assert caplog.text.count("held up") == 1


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


def test_wait_for_revision_gives_up(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user who waits for a revision that does not come is told False in time."""
    publish(directory, 1)
    watcher = make_watcher()
    watcher.start()
    started = time.monotonic()
    assert watcher.wait_for_revision(2, timeout=0.2) is False
    assert time.monotonic() - started < 1
    assert watcher.wait_for_revision(1, timeout=0) is True


def test_status_tells_what_decides(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user sees what decides, since when, and when the sidecar last confirmed it."""
    watcher = make_watcher(stale_after_s=60)
    assert watcher.status().revision is None
    assert watcher.status().stale
    datafile = publish(directory, 1)
    vouch(directory, "KEY1", datafile, checked="2026-01-02T03:04:05.678Z")
    watcher.start()
    status = watcher.status()
    assert (status.sdk_key, status.path) == ("KEY1", str(directory / "KEY1.json"))
    assert (status.revision, status.source, status.last_error) == (1, "file", None)
    assert status.sha256 is not None
    assert len(status.sha256) == 64
    assert status.checked_at == datetime.datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=datetime.UTC)
    assert status.stale
    vouch(directory, "KEY1", datafile, checked="2026-01-02T05:04:05.678+02:00")
    assert str(watcher.status().checked_at) == "2026-01-02 03:04:05.678000+00:00"
    vouch(directory, "KEY1", datafile, checked=datetime.datetime.now(datetime.UTC).isoformat())
    assert not watcher.status().stale
    vouch(directory, "KEY1", b"another datafile", checked="2026-01-02T03:04:05.678Z")
    assert not watcher.status().stale


def test_without_a_limit_nothing_is_stale(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user who asked for no limit is never told of staleness."""
    vouch(directory, "KEY1", publish(directory, 1), checked="2001-01-01T00:00:00Z")
    watcher = make_watcher()
    watcher.start()
    assert not watcher.status().stale


def test_the_settings_come_from_the_environment(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user in a pod passes no argument at all."""
    publish(directory, 1)
    monkeypatch.setenv("DATAFILE_SDK_KEYS", " KEY1,KEY1 \n")
    monkeypatch.setenv("DATAFILE_DIR", str(directory))
    with OptimizelyWatcher() as watcher:
        assert watcher.revision == 1


@pytest.mark.parametrize("keys", ["", "  ", "KEY1,KEY2", "../../etc", "KEY 1", "KEY1?x="])
def test_a_wrong_sdk_key_is_refused_at_once(keys: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user with no, several or impossible SDK keys is told which setting to mend."""
    monkeypatch.setenv("DATAFILE_SDK_KEYS", keys)
    with pytest.raises(InvalidOptionError, match="DATAFILE_SDK_KEYS"):
        OptimizelyWatcher()
    with pytest.raises(InvalidOptionError, match="sdk_key"):
        OptimizelyWatcher(sdk_key=keys)


@pytest.mark.parametrize("option", ["stale_after_s", "rescan_interval_s"])
@pytest.mark.parametrize("value", [0, -1, float("inf"), float("nan")])
def test_a_wrong_time_is_refused_at_once(option: str, value: float, make_watcher: MakeWatcher) -> None:
    """A user cannot set an interval that would spin or never end."""
    with pytest.raises(InvalidOptionError, match=option):
        make_watcher(**{option: value})


def test_repr_and_log_say_what_happens(
    directory: Path, make_watcher: MakeWatcher, caplog: pytest.LogCaptureFixture
) -> None:
    """A user who prints a watcher or reads the log sees the file and the revision."""
    caplog.set_level(logging.INFO, "datafile_client")
    watcher = make_watcher()
    assert "without a datafile" in repr(watcher)
    publish(directory, 1)
    watcher.start()
    assert repr(watcher) == f"<OptimizelyWatcher {directory / 'KEY1.json'} revision 1>"
    assert "Deciding by revision 1 of KEY1 (file)" in caplog.text


def test_two_keys_do_not_mix(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user with two projects in one directory gets each one's flags."""
    publish(directory, 1)
    write_datafile(directory, "KEY2", make_datafile({"checkout": False}, revision=8, sdk_key="KEY2"))
    one, two = make_watcher(), make_watcher(sdk_key="KEY2")
    one.start()
    two.start()
    assert (one.revision, is_on(one), two.revision, is_on(two)) == (1, True, 8, False)
