"""Where a watcher's datafiles come from: the directory that the sidecar publishes into, or, in an app's tests, the test itself."""

import datetime
from pathlib import Path
from typing import Protocol

from datafile_client import _directory_monitor, _log
from datafile_client._datafile_reader import DatafileReader, FileContent, is_mount_point
from datafile_client._directory_monitor import Member


class Reader(Protocol):
    """What reads the datafile for one process. `DatafileReader` says what its methods do."""

    def read_if_changed(self) -> FileContent | None: ...
    def forget(self) -> None: ...
    def prevalidated(self, sha256: str) -> tuple[bool, datetime.datetime | None]: ...


class Monitor(Protocol):
    """What gives a process's watchers their turns. `DirectoryMonitor` says what its methods do."""

    def ensure_thread(self) -> bool: ...
    def wake(self) -> None: ...


class DatafileSource(Protocol):
    """Where the datafiles of one watcher come from, in all processes.

    Attributes:
        path: where the datafile is, for people.
        has_thread: whether a thread watches it. Where none does, whoever brings a new datafile makes the calls of its listeners.
    """

    path: Path
    has_thread: bool

    def reader(self) -> Reader:
        """Make a reader for one process."""

    def warn_if_fixed(self) -> None:
        """Log a warning where the datafile can never change."""

    def join(self, member: Member) -> Monitor | None:
        """Let a watcher take part in this process. Return None when the system allows no thread for it."""

    def leave(self, member: Member, ends_at: float) -> None:
        """End a watcher's part. Waits until then at most, on the monotonic clock."""


class DirectorySource:
    """The directory that the sidecar publishes into."""

    has_thread = True

    def __init__(self, directory: Path, sdk_key: str) -> None:
        self.path = directory / f"{sdk_key}.json"
        self._directory, self._sdk_key = directory, sdk_key

    def reader(self) -> Reader:
        """Make a reader for one process."""
        return DatafileReader(self._directory, self._sdk_key)

    def warn_if_fixed(self) -> None:
        """Log a warning where the file is a mount of its own."""
        if is_mount_point(self.path):
            _log.warning("%s is a mount (subPath?) and never changes. Mount its directory instead", self.path)

    def join(self, member: Member) -> Monitor | None:
        """Let a watcher take part in the process's monitor of the directory."""
        return _directory_monitor.join(self._directory, member)

    def leave(self, member: Member, ends_at: float) -> None:
        """End a watcher's part in the process's monitor of the directory."""
        _directory_monitor.leave(self._directory, member, ends_at)
