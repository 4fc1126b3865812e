"""Waiting for changes in the directory: by events, by what was collected meanwhile, and where there is nothing to watch."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from datafile_client._descriptors import Wake
from datafile_client._directory_watch import DirectoryWatch
from tests.client.helpers import publish, write_status


@pytest.fixture
def wake() -> Iterator[Wake]:
    wake = Wake()
    yield wake
    wake.close()


@pytest.fixture
def watch(directory: Path, wake: Wake) -> Iterator[DirectoryWatch]:
    watch = DirectoryWatch(directory, wake)
    yield watch
    watch.close()


def test_what_comes_before_the_watch_begins_is_seen(directory: Path, watch: DirectoryWatch) -> None:
    """A user gets a change that falls between the first look and the first event, however rare the looks are."""
    publish(directory, 1)
    assert watch.wait(0.1) is None  # anything may have changed
    publish(directory, 2)
    assert watch.wait(20) == {"KEY1.json"}
    assert watch.wait(0.1) == set()


def test_changes_are_collected_without_waiting(directory: Path, watch: DirectoryWatch) -> None:
    """While the sidecar tells what it publishes, a file that another hand has replaced is found at the next look."""
    assert watch.collect() is None
    assert watch.collect() == set()
    publish(directory, 1)
    time.sleep(0.05)
    assert watch.collect() == {"KEY1.json"}
    assert watch.collect() == set()
    publish(directory, 2)
    assert watch.wait(20) == {"KEY1.json"}


def test_what_the_sidecar_notes_wakes_nobody(directory: Path, watch: DirectoryWatch) -> None:
    """The status file, which changes at each check, and temporary files cost an app nothing."""
    assert watch.wait(0.01) is None
    write_status(directory, "KEY1", b"")
    (directory / ".datafile-sidecar.KEY1.json.tmp").touch()
    assert watch.wait(0.2) == set()


def test_a_wake_ends_the_wait(watch: DirectoryWatch, wake: Wake) -> None:
    """A watcher is stopped at once, whatever it waits for, also where there is no directory."""
    assert watch.wait(0.01) is None
    for _ in range(2):
        began = time.monotonic()
        threading.Timer(0.1, wake.set).start()
        watch.wait(20)
        assert time.monotonic() - began < 10
        wake.clear()
        watch.close()
        watch._directory = watch._directory / "missing"


def test_a_directory_that_comes_late_or_goes_is_watched_when_it_is_there(
    directory: Path, watch: DirectoryWatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The log names the cause once, and each return means that anything may have changed."""
    directory.rmdir()
    assert watch.wait(0.01) is None
    assert watch.collect() is None
    assert caplog.text.count("Cannot watch for changes") == 1
    directory.mkdir()
    assert watch.wait(0.01) is None
    publish(directory, 1)
    assert watch.wait(20) == {"KEY1.json"}
    directory.rename(directory.with_name("away"))
    directory.mkdir()
    assert watch.wait(0.1) is None
    assert watch.wait(0.01) is None
    publish(directory, 2)
    assert watch.wait(20) == {"KEY1.json"}
