"""Datafiles that a test holds in memory: a source for `OptimizelyWatcher` without files and threads."""

import datetime
import hashlib
from pathlib import Path

from datafile_client._datafile_reader import FileContent
from datafile_client._datafile_source import Monitor, Reader
from datafile_client._directory_monitor import Member
from datafile_client._per_process import PerProcess


class MemorySource:
    """The datafile of one test. A child process inherits it, and goes on with its own.

    Attributes:
        path: what stands for the file's path in errors and logs.
        has_thread: no thread watches it.
        file: the current datafile; None before the first.
    """

    has_thread = False

    def __init__(self) -> None:
        self.path = Path("<flags of a test>")
        self.file: FileContent | None = None
        self._members: PerProcess[dict[Member, None]] = PerProcess(lambda _: {})

    def publish(self, datafile: bytes) -> None:
        """Replace the datafile. When this returns, the watchers use it and have called their listeners."""
        self.file = FileContent(self.path, datafile, hashlib.sha256(datafile).hexdigest(), prevalidated=True)
        for member in list(self._members.get()):
            member.turn(is_event=True)

    def reader(self) -> Reader:
        """Make a reader for one process."""
        return _MemoryReader(self)

    def warn_if_fixed(self) -> None:
        """Do nothing: a test may always set another flag."""

    def join(self, member: Member) -> Monitor | None:
        """Let a watcher take part in this process."""
        self._members.get()[member] = None
        member.turn(is_event=True)  # its listeners may wait for the first call
        return _Turns(member)

    def leave(self, member: Member, ends_at: float) -> None:
        """End a watcher's part. Does not wait: a turn has ended when the one who asked for it goes on."""
        self._members.get().pop(member, None)


class _MemoryReader:
    def __init__(self, source: MemorySource) -> None:
        self._source = source
        self._known: FileContent | None = None

    def read_if_changed(self) -> FileContent | None:
        """Return the datafile if it was replaced since the last call."""
        known, self._known = self._known, self._source.file
        return None if self._known is known else self._known

    def forget(self) -> None:
        """Let the next call return the datafile in any case."""
        self._known = None

    def prevalidated(self, sha256: str) -> tuple[bool, datetime.datetime | None]:
        """Vouch for every datafile, for no moment."""
        return self._source.file is not None and self._source.file.sha256 == sha256, None


class _Turns:
    def __init__(self, member: Member) -> None:
        self._member = member

    def ensure_thread(self) -> bool:
        """Say that no thread is missed."""
        return True

    def wake(self) -> None:
        """Give the watcher a turn at once, in this thread."""
        self._member.turn(is_event=False)
