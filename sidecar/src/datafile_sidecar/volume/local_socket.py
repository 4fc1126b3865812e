"""A Unix socket in a directory that containers share: in its place whole or not at all, and never in place of somebody's file."""

import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

MAX_ADDRESS_BYTES = 107
_TEMPORARY = ".sidecar.tmp"


def listen(path: Path, backlog: int) -> socket.socket:
    """A listening socket that anybody may connect to, put in its place whole, by a rename. Raises OSError.

    It takes the place of a dead one; anything else of that name is somebody's, and stays.
    """
    with _within_reach(path) as place:
        temporary = place.with_name(_TEMPORARY)
        if os.path.lexists(place) and not place.is_socket():
            raise FileExistsError(errno.EEXIST, "there is something of that name which is no socket")
        temporary.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.setblocking(False)
            listener.bind(os.fsencode(temporary))
            temporary.chmod(0o666)
            listener.listen(backlog)
            temporary.rename(place)
        except BaseException:
            listener.close()
            raise
    return listener


@contextlib.contextmanager
def _within_reach(path: Path) -> Iterator[Path]:
    """The same place by a name that is short enough: the system takes no long ones."""
    if len(os.fsencode(path.with_name(max(path.name, _TEMPORARY, key=len)))) <= MAX_ADDRESS_BYTES:
        yield path
        return
    descriptor = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield Path(f"/proc/self/fd/{descriptor}/{path.name}")
    finally:
        os.close(descriptor)


def inode(path: Path) -> int | None:
    """What is there now, as a number; None where there is nothing. It tells a file from another of the same name."""
    try:
        return path.lstat().st_ino
    except OSError:
        return None
