"""A Unix socket in a directory that containers share. It is renamed into place, and never replaces a file that is not a socket."""

import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

MAX_ADDRESS_BYTES = 107
_TEMPORARY = ".sidecar.tmp"


def listen(path: Path, backlog: int) -> socket.socket:
    """Open a listening socket with mode 0666, renamed into place. It replaces an old socket.

    Raises:
        OSError: It can't be opened, or something else has this name.
    """
    with _short_name(path) as short:
        temporary = short.with_name(_TEMPORARY)
        if os.path.lexists(short) and not short.is_socket():
            raise FileExistsError(errno.EEXIST, "something of that name exists and is not a socket")
        temporary.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.setblocking(False)
            listener.bind(os.fsencode(temporary))
            temporary.chmod(0o666)
            listener.listen(backlog)
            temporary.rename(short)
        except BaseException:
            listener.close()
            raise
    return listener


@contextlib.contextmanager
def _short_name(path: Path) -> Iterator[Path]:
    """Give the same path by a name that is short enough for a socket's address."""
    if len(os.fsencode(path.with_name(max(path.name, _TEMPORARY, key=len)))) <= MAX_ADDRESS_BYTES:
        yield path
        return
    descriptor = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield Path(f"/proc/self/fd/{descriptor}/{path.name}")
    finally:
        os.close(descriptor)


def inode(path: Path) -> int | None:
    """Return the inode of what is there now, None where there is nothing."""
    try:
        return path.lstat().st_ino
    except OSError:
        return None
