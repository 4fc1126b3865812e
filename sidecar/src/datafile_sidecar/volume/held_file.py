"""Files that can be read after they were replaced or removed: the bytes of one stay as long as somebody holds it open."""

import contextlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Self


class HeldFile:
    """A regular file, held open. It is closed when nothing refers to this object any more."""

    def __init__(self, descriptor: int) -> None:
        """Take over an open descriptor."""
        self._descriptor = descriptor
        self.size = os.fstat(descriptor).st_size

    @classmethod
    def open(cls, path: Path) -> Self | None:
        """Hold a file, None where there is none that can be read, or not a regular one."""
        with contextlib.suppress(OSError):
            held = cls(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW))
            return held if stat.S_ISREG(os.fstat(held._descriptor).st_mode) else None
        return None

    def read(self) -> bytes:
        """Return as many bytes as the file had when it was opened. Raises OSError."""
        return os.pread(self._descriptor, self.size, 0)

    def __del__(self) -> None:
        os.close(self._descriptor)


@dataclass(frozen=True, slots=True)
class Replaced:
    """A file that was replaced, and the one that replaced it."""

    before: HeldFile
    after: HeldFile
