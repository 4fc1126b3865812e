"""The locks that the processes of the app hold on the directory: the kernel knows of each process that lives, even a stopped one.

Each process holds a shared lock of one byte (an OFD lock, see fcntl(2)). The kernel releases it when the process ends. Locks are
input from other containers: whatever is not as agreed makes the list unknown, and never shorter.
"""

import contextlib
import fcntl
import json
import os
import struct
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

MAX_LOCKS = 256
_LISTED_WITHIN_S = 0.05
_GETLK: int | None = getattr(fcntl, "F_OFD_GETLK", None)
_FLOCK = struct.Struct("@hhqqi4x")  # struct flock on 64-bit Linux: type, whence, start, length, pid
_RECORD = ".datafile-sidecar.workers"
_RECORD_MAX_BYTES = 200


class UnlistableError(Exception):
    """The locks can't be listed; the text says why."""


class UnsupportedError(UnlistableError):
    """This system has no such locks, at least on this file system."""


@dataclass(frozen=True, slots=True)
class DirectoryLocks:
    """One directory, open until `close`. Everything here blocks."""

    path: Path
    descriptor: int

    @classmethod
    def open(cls, path: Path) -> "DirectoryLocks":
        """Open the directory.

        Raises:
            OSError: It can't be opened.
        """
        return cls(path, os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))

    def close(self) -> None:
        """Close the directory."""
        os.close(self.descriptor)

    def is_in_place(self) -> bool:
        """Tell whether the path still leads to this directory."""
        try:
            return os.path.samestat(os.fstat(self.descriptor), os.stat(self.path))
        except OSError:
            return False

    def held(self, expected: Collection[int] = ()) -> frozenset[int]:
        """Return the offsets of all bytes that are locked.

        Args:
            expected: Offsets that are probably locked: those cost one question each.

        Raises:
            UnsupportedError: There are no such locks here.
            UnlistableError: There are too many, or they are not of one byte each, or it took too long.
        """
        ends_at, found = time.monotonic() + _LISTED_WITHIN_S, set[int]()
        edges = sorted(set(expected))
        ranges: list[tuple[int, int | None]] = [(offset, offset + 1) for offset in edges]
        ranges += zip([0, *(offset + 1 for offset in edges)], [*edges, None], strict=True)
        while ranges:
            start, end = ranges.pop()
            if start == end:
                continue
            for lock_start, lock_length in self._lock_in(start, end):
                if lock_length != 1:
                    raise UnlistableError(f"a process has locked {_length(lock_length)} of the directory, not one byte")
                found.add(lock_start)
                ranges += [(start, lock_start), (lock_start + 1, end)]
            if len(found) > MAX_LOCKS:
                raise UnlistableError(f"more than {MAX_LOCKS} processes have locked the directory")
            if time.monotonic() > ends_at:
                raise UnlistableError(f"listing the locks took more than {_LISTED_WITHIN_S * 1000:.0f} ms")
        return frozenset(found)

    def is_held(self, offset: int) -> bool:
        """Tell whether exactly this byte is locked, as far as can be known."""
        with contextlib.suppress(UnlistableError):
            return any(lock == (offset, 1) for lock in self._lock_in(offset, offset + 1))
        return False

    def _lock_in(self, start: int, end: int | None) -> Iterator[tuple[int, int]]:
        """Yield the start and length of a lock that overlaps this range, if there is one. The kernel picks any."""
        if _GETLK is None:
            raise UnsupportedError("this system has no OFD locks")
        asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, start, 0 if end is None else end - start, 0)
        try:
            kind, _, lock_start, length, _ = _FLOCK.unpack(fcntl.fcntl(self.descriptor, _GETLK, asked))
        except OSError as problem:
            raise UnsupportedError(f"{self.path} can't be asked for its locks: {problem.strerror}") from problem
        if kind != fcntl.F_UNLCK:
            yield lock_start, length

    # The note to the successor: every connection had a lock

    def is_vouched(self) -> bool:
        """Tell whether the sidecar before this one noted, in this very directory, that each of its workers held a lock."""
        with contextlib.suppress(OSError, ValueError), open(self.path / _RECORD, "rb") as file:
            return bool(json.loads(file.read(_RECORD_MAX_BYTES)) == self._record())
        return False

    def vouch(self) -> None:
        """Note it.

        Raises:
            OSError: The file can't be written.
        """
        temporary = self.path / f"{_RECORD}.tmp"
        temporary.write_text(json.dumps(self._record()))
        temporary.rename(self.path / _RECORD)

    def disown(self) -> None:
        """Take the note back.

        Raises:
            OSError: The file can't be removed.
        """
        (self.path / _RECORD).unlink(missing_ok=True)

    def _record(self) -> dict[str, int]:
        directory = os.fstat(self.descriptor)
        return {"v": 1, "device": directory.st_dev, "inode": directory.st_ino}


def _length(length: int) -> str:
    return f"{length} bytes" if length else "everything"
