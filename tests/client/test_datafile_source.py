"""Where datafiles come from: a watcher cannot tell a directory from a test's memory."""

import contextlib
import logging
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import pytest

from datafile_client import DatafileUnavailableError, OptimizelyWatcher
from datafile_client._datafile_source import DatafileSource, DirectorySource
from datafile_client.testing import make_datafile, write_datafile
from datafile_client.testing._memory import MemorySource
from tests.client.helpers import is_on, wait_until

Publish = Callable[[bytes], object]


@pytest.fixture(params=["directory", "memory"])
def source(request: pytest.FixtureRequest, directory: Path) -> tuple[DatafileSource, Publish]:
    """Return one source after the other, and what publishes into it."""
    if request.param == "memory":
        memory = MemorySource()
        return memory, memory.publish
    return DirectorySource(directory, "KEY1"), lambda datafile: write_datafile(directory, "KEY1", datafile)


def test_each_source_keeps_a_watcher_up_to_date(source: tuple[DatafileSource, Publish], directory: Path) -> None:
    """A user's tests in memory hold for the directory of production: the same steps give the same answers."""
    datafiles, publish = source
    watcher = OptimizelyWatcher(sdk_key="KEY1", directory=directory, rescan_interval_s=0.05)
    watcher._source = datafiles
    seen: list[int] = []
    watcher.on_update(lambda _: seen.append(watcher.revision))
    with pytest.raises(DatafileUnavailableError):
        watcher.start(timeout=0)
    with contextlib.closing(contextlib.ExitStack()) as stack:
        stack.callback(watcher.stop)
        assert not watcher.ready
        publish(make_datafile({"checkout": True}, revision=1))
        assert watcher.wait_for_revision(1, 10)
        assert is_on(watcher)
        publish(make_datafile({"checkout": False}, revision=2))
        assert watcher.wait_for_revision(2, 10)
        assert not is_on(watcher)
        publish(make_datafile({"checkout": True}, revision=1, sdk_key="OTHER"))
        wait_until(lambda: "another SDK key" in (watcher.status().last_error or ""))
        assert watcher.revision == 2
        wait_until(lambda: seen[-1:] == [2])
        assert str(datafiles.path) in repr(watcher)


def test_a_reader_gives_each_datafile_once(source: tuple[DatafileSource, Publish]) -> None:
    """A user's app builds an instance once for each datafile, and again when a failed build is tried again."""
    datafiles, publish = source
    publish(make_datafile({}))
    reader = datafiles.reader()
    first = reader.read_if_changed()
    assert first is not None
    assert reader.read_if_changed() is None
    reader.forget()
    again = reader.read_if_changed()
    assert again is not None
    assert (again.data, again.sha256) == (first.data, first.sha256)
    assert reader.prevalidated("0" * 64) == (False, None)


def test_a_file_that_is_a_mount_is_named(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A user with subPath reads why flags never change; a test's flags are no file."""
    with patch("datafile_client._datafile_source.is_mount_point", return_value=True):
        DirectorySource(directory, "KEY1").warn_if_fixed()
        MemorySource().warn_if_fixed()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "subPath" in caplog.text
