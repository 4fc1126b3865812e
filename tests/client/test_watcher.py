"""The watcher as an app sees it: files in, decisions out."""

import asyncio
import io
import json
import logging
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from datafile_client import DatafileUnavailableError, InvalidOptionError, OptimizelyWatcher
from datafile_client.testing import make_datafile, write_datafile
from tests.client.conftest import MakeWatcher
from tests.client.helpers import is_on, publish, running, wait_until, watching
from tests.client.reads import record_reads, wait_for_reads


def test_each_replacement_is_used(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user gets the newest flags after every rename, not only after the first."""
    publish(directory, 1)
    watcher = make_watcher()
    watcher.start(timeout=20)
    assert is_on(watcher)
    for revision in range(2, 6):
        publish(directory, revision)
        assert watcher.wait_for_revision(revision, timeout=20)
        assert is_on(watcher) == (revision % 2 == 1)
        assert watcher.revision == revision


def test_other_bytes_with_the_same_revision_are_used(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user gets the new flags even where the revision has not moved."""
    publish(directory, 1)
    watcher = make_watcher()
    watcher.start(timeout=20)
    publish(directory, 1, checkout=False)
    wait_until(lambda: not is_on(watcher))
    assert watcher.revision == 1


def test_the_same_bytes_make_no_new_instance(
    directory: Path, make_watcher: MakeWatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user keeps the very same instance when a file is replaced by its equal."""
    publish(directory, 1)
    watcher = make_watcher()
    watcher.start(timeout=20)
    before = watcher.optimizely
    reads = record_reads(monkeypatch)
    wait_for_reads(reads, 1)  # one that began before is over
    datafile = publish(directory, 1)
    wait_until(lambda: any(content is not None and content.data == datafile for content in reads))
    wait_for_reads(reads, 1)
    assert watcher.optimizely is before


def test_start_fails_when_nothing_comes_and_goes_on_watching(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user reads at once what is missing and where, and can carry on until the datafile comes."""
    watcher = make_watcher()
    started = time.monotonic()
    with pytest.raises(DatafileUnavailableError, match=r"KEY1.*No such file.*KEY1\.json.*sidecar") as caught:
        watcher.start(timeout=0.3)
    assert 0.3 <= time.monotonic() - started < 5
    assert caught.value.sdk_key == "KEY1"
    for use in (lambda: watcher.optimizely, lambda: watcher.revision):
        with pytest.raises(DatafileUnavailableError, match="none has been loaded yet"):
            use()
    publish(directory, 1)
    assert watcher.wait_for_revision(1, timeout=20)
    assert is_on(watcher)
    assert watcher.status().last_error is None


def test_start_waits_for_a_late_datafile(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user whose app starts before the sidecar waits no longer than the datafile takes."""
    watcher = make_watcher()
    timer = threading.Timer(0.4, publish, (directory, 1))
    timer.start()
    watcher.start(timeout=30)
    timer.join()
    assert watcher.revision == 1


def test_a_timeout_of_zero_never_waits(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user who does not want to wait does not, and still gets a datafile that is there."""
    watcher = make_watcher()
    started = time.monotonic()
    with pytest.raises(DatafileUnavailableError):
        watcher.start(timeout=0)
    assert time.monotonic() - started < 5
    publish(directory, 1)
    other = make_watcher()
    other.start(timeout=0)
    assert other.revision == 1


def test_before_start_there_is_nothing(make_watcher: MakeWatcher, directory: Path) -> None:
    """A user who forgot start() reads so in the error."""
    publish(directory, 1)
    with pytest.raises(DatafileUnavailableError, match=r"is not running, call start\(\)"):
        make_watcher().optimizely  # noqa: B018 - the property is what is asked
    assert make_watcher().wait_for_revision(1, timeout=20) is False


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


def test_a_broken_fallback_is_not_used(
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
            if ticks == 11:  # a loop that is held up never gets here
                publish(directory, 1)
            await asyncio.sleep(0.01)

    ticker = asyncio.create_task(tick())
    async with OptimizelyWatcher(sdk_key="KEY1", directory=directory) as watcher:
        assert watcher.revision == 1
        assert ticks > 10
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
    await (
        asyncio.get_running_loop().shutdown_default_executor()
    )  # every start has ended, and can start no thread any more
    wait_until(lambda: not watching())


def test_after_stop_the_last_instance_stays_usable_and_start_works_again(
    directory: Path, make_watcher: MakeWatcher
) -> None:
    """A user can decide to the very end, may stop twice, and may start again."""
    publish(directory, 1)
    watcher = make_watcher()
    watcher.start()
    watcher.stop()
    watcher.stop()
    assert not watching()
    publish(directory, 2)
    assert watcher.revision == 1
    assert is_on(watcher)
    watcher.start()
    assert watcher.revision == 2


def test_listeners_are_called_in_their_order(
    directory: Path, make_watcher: MakeWatcher, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user's listener gets the current instance and each later one, after the swap; a failing listener disturbs no other."""
    publish(directory, 1)
    monkeypatch.setattr("datafile_client._directory_monitor._TICK_MAX_S", 300)
    watcher = make_watcher(rescan_interval_s=300)  # so that only on_update itself can wake the thread
    calls: list[tuple[str, bool]] = []
    revisions: list[int] = []

    def fails(_: Any) -> None:
        sys.exit("listener trouble")  # the worst that it can raise: it would end the thread without a word

    def listen(optimizely: Any) -> None:
        calls.append((threading.current_thread().name, watcher.optimizely is optimizely))

    watcher.on_update(fails)
    watcher.start()
    remove = watcher.on_update(listen)
    wait_until(lambda: len(calls) == 1)
    watcher.on_update(lambda _: revisions.append(watcher.revision))
    publish(directory, 2)
    wait_until(lambda: len(calls) == 2)
    remove()
    remove()
    publish(directory, 3)
    wait_until(lambda: 3 in revisions)  # listeners are called in the order in which they came
    assert calls == [("datafile callbacks", True)] * 2
    assert caplog.text.count("callback failed at revision") == 3


def test_a_removed_listener_is_not_called_any_more(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user who removes a listener, even during calls of others, gets no more calls of it."""
    publish(directory, 1)
    watcher = make_watcher()
    calls: list[str] = []
    removers: list[Any] = []

    def first(_: object) -> None:
        calls.append("first")
        removers[0]()

    def last(_: object) -> None:
        calls.append("last")

    watcher.on_update(first)
    removers.append(watcher.on_update(lambda _: calls.append("removed")))
    watcher.on_update(last)
    watcher.start()
    wait_until(lambda: "last" in calls)
    assert calls == ["first", "last"]


def test_stop_takes_at_most_a_second_beside_a_callback_that_hangs(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user whose callback waits for something that never comes can still shut the app down within the promised time."""
    write_datafile(directory, "KEY1", make_datafile({"a_flag": True}, revision=1))
    watcher, is_called, may_end = make_watcher(), threading.Event(), threading.Event()
    watcher.start()

    def hang(_: object) -> None:
        is_called.set()
        may_end.wait(30)

    watcher.on_update(hang)
    assert is_called.wait(10)
    began = time.monotonic()
    watcher.stop()
    took = time.monotonic() - began
    may_end.set()
    assert took < 1.9


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
    assert done.wait(20)


def test_wait_for_revision_gives_up(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user who waits for a revision that does not come gets False in time."""
    publish(directory, 1)
    watcher = make_watcher()
    watcher.start()
    started = time.monotonic()
    assert watcher.wait_for_revision(2, timeout=0.2) is False
    assert time.monotonic() - started < 5
    assert watcher.wait_for_revision(1, timeout=0) is True


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
    assert "Using revision 1 of KEY1 (file)" in caplog.text


def test_two_keys_do_not_mix(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user with two projects in one directory gets each one's flags."""
    publish(directory, 1)
    write_datafile(directory, "KEY2", make_datafile({"checkout": False}, revision=8, sdk_key="KEY2"))
    one, two = make_watcher(), make_watcher(sdk_key="KEY2")
    one.start()
    two.start()
    assert (one.revision, is_on(one), two.revision, is_on(two)) == (1, True, 8, False)


def test_a_user_context_is_never_none(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user writes no check for None, and reads what was wrong with an argument."""
    watcher = make_watcher()
    with pytest.raises(DatafileUnavailableError):
        watcher.user("u")
    publish(directory, 1)
    watcher.start()
    assert watcher.user("u").decide("checkout").enabled
    assert watcher.user("u", {"country": "de"}).get_user_attributes() == {"country": "de"}
    wrongs: list[tuple[Any, Any]] = [(None, None), (7, None), ("u", ["country"]), ("u", "country")]
    for user_id, attributes in wrongs:
        with pytest.raises(InvalidOptionError, match=r"user_id|attributes"):
            watcher.user(user_id, attributes)


def test_ready_says_whether_this_process_decides(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user's readiness probe asks this: it is false before the first datafile and after stop(), and raises nothing."""
    watcher = make_watcher()
    assert not watcher.ready
    with pytest.raises(DatafileUnavailableError):
        watcher.start(timeout=0)
    assert not watcher.ready
    publish(directory, 1)
    wait_until(lambda: watcher.ready)
    watcher.stop()
    assert not watcher.ready


def test_an_app_that_frees_no_lock_while_it_logs_is_not_held_up(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user's log handler that waits for a thread, which asks for the revision, waits for no lock of ours."""
    publish(directory, 1)
    watcher = make_watcher()
    asked = list[bool]()

    class Asks(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            thread = threading.Thread(target=lambda: watcher.ready and watcher.revision, daemon=True)
            thread.start()
            thread.join(10)
            asked.append(not thread.is_alive())

    handler, logger = Asks(), logging.getLogger("datafile_client")
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel(logging.INFO)
    try:
        watcher.start()
        for revision in range(2, 5):
            publish(directory, revision)
            assert watcher.wait_for_revision(revision, timeout=20)
        write_datafile(directory, "KEY1", b"{")
        wait_until(lambda: len(asked) >= 5)
        watcher.stop()
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    assert all(asked)


def test_the_sdks_logger_may_ask_for_the_revision_during_a_build(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user whose SDK logs through a handler with the revision in each line has no deadlock between a build and a request."""
    data = json.loads(make_datafile({"checkout": True}))
    data["localHoldouts"] = [{"id": f"h{number}", "key": f"h{number}", "status": "Running"} for number in range(100)]
    write_datafile(directory, "KEY1", json.dumps(data))
    logger = logging.getLogger("app of the test")
    logger.propagate = False
    logger.setLevel(logging.INFO)
    watcher = make_watcher(optimizely_options={"logger": logger})

    class Stamp(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            return f"{watcher.revision if watcher.ready else None} {record.getMessage()}"

    handler = logging.StreamHandler(io.StringIO())
    handler.setFormatter(Stamp())
    logger.addHandler(handler)
    ends = threading.Event()

    def chat() -> None:
        while not ends.wait(0):
            logger.info("request")

    with running([threading.Thread(target=chat)]):
        try:
            watcher.start(timeout=20)
            for revision in range(2, 20):
                write_datafile(directory, "KEY1", json.dumps(data | {"revision": str(revision)}))
                assert watcher.wait_for_revision(revision, timeout=20)
        finally:
            ends.set()
