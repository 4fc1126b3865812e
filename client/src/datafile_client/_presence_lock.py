"""The lock that shows the sidecar that this process lives: on one byte of the directory, kept by the kernel.

The kernel keeps it while the process is stopped, and releases it when the process ends. A sidecar that has just started knows by
these locks which processes it has not heard yet.
"""

import fcntl
import os
import struct
from pathlib import Path

from datafile_client._descriptors import close_in_children, opening

_SETLK: int | None = getattr(fcntl, "F_OFD_SETLK", None)
_FLOCK = struct.Struct("@hhqqi4x")  # struct flock on 64-bit Linux: type, whence, start, length, pid


class PresenceLock:
    """A shared lock of the byte at `offset`. It is closed, never unlocked: an unlock in a child would take the parent's."""

    def __init__(self, directory: Path, offset: int) -> None:
        self._directory = directory
        self._descriptor: int | None = None
        self.offset = offset
        close_in_children(self)

    @property
    def is_held(self) -> bool:
        """Whether the lock is held."""
        return self._descriptor is not None

    def acquire(self) -> bool:
        """Lock the byte, in the directory that is there now. Return False where that can't be done."""
        if _SETLK is None:
            return False
        try:
            with opening():
                self._descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            os.close(os.dup(self._descriptor))  # the last descriptor is for the datafile
            fcntl.fcntl(self._descriptor, _SETLK, _FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, self.offset, 1, 0))
        except OSError:
            self.close()
        return self.is_held

    def is_in_place(self) -> bool:
        """Tell whether the path still leads to the directory that is locked."""
        try:
            return self._descriptor is not None and os.path.samestat(
                os.fstat(self._descriptor), os.stat(self._directory)
            )
        except OSError:
            return False

    def close(self) -> None:
        """Give it up."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    abandon = close
