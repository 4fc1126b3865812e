"""`OptimizelyWatcher.status()` says which datafile is in use and how fresh it is."""

import dataclasses
import datetime
from pathlib import Path

import pytest

from tests.client.conftest import MakeWatcher
from tests.client.helpers import publish, write_status


def test_status_says_which_datafile_is_in_use(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user sees which datafile is in use, since when, and when the sidecar last confirmed it."""
    watcher = make_watcher(stale_after_s=60)
    assert watcher.status().revision is None
    assert watcher.status().stale
    datafile = publish(directory, 1)
    write_status(directory, "KEY1", datafile, checked="2026-01-02T03:04:05.678Z")
    watcher.start()
    status = watcher.status()
    assert (status.sdk_key, status.path) == ("KEY1", str(directory / "KEY1.json"))
    assert (status.revision, status.source, status.last_error) == (1, "file", None)
    assert status.sha256 is not None
    assert len(status.sha256) == 64
    assert status.checked_at == datetime.datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=datetime.UTC)
    assert status.stale
    write_status(directory, "KEY1", datafile, checked="2026-01-02T05:04:05.678+02:00")
    assert str(watcher.status().checked_at) == "2026-01-02 03:04:05.678000+00:00"
    write_status(directory, "KEY1", datafile, checked=datetime.datetime.now(datetime.UTC).isoformat())
    assert not watcher.status().stale
    write_status(directory, "KEY1", b"another datafile", checked="2026-01-02T03:04:05.678Z")
    assert not watcher.status().stale


@pytest.mark.parametrize("ahead_s", [10, 3600])
def test_a_moment_in_the_future_vouches_for_nothing(ahead_s: int, directory: Path, make_watcher: MakeWatcher) -> None:
    """On call is not told that data is fresh because a clock was set back during an outage."""
    datafile = publish(directory, 1)
    watcher = make_watcher(stale_after_s=60)
    watcher.start()
    now = datetime.datetime.now(datetime.UTC)
    write_status(directory, "KEY1", datafile, checked=(now - datetime.timedelta(seconds=30)).isoformat())
    assert watcher.status().checked_at is not None
    write_status(directory, "KEY1", datafile, checked=(now + datetime.timedelta(seconds=ahead_s)).isoformat())
    assert watcher.status().checked_at is None
    current = watcher._loader.current
    assert current is not None
    watcher._loader.current = dataclasses.replace(current, loaded_at=now + datetime.timedelta(seconds=ahead_s))
    assert watcher.status().stale


def test_without_a_limit_nothing_is_stale(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user who asked for no limit never sees a stale status."""
    write_status(directory, "KEY1", publish(directory, 1), checked="2001-01-01T00:00:00Z")
    watcher = make_watcher()
    watcher.start()
    assert not watcher.status().stale
