"""Locks on bytes of a directory, as processes of an app hold them, and as hostile ones do."""

import contextlib
import fcntl
import os
import struct
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def locked(directory: Path, *ranges: tuple[int, int]) -> Iterator[None]:
    """Hold shared locks (start, length), as another process would: on a descriptor of its own."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for start, length in ranges:
            lock = struct.pack("@hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, start, length, 0)
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, lock)
        yield
    finally:
        os.close(descriptor)
