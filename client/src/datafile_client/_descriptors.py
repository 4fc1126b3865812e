"""Descriptors of one process. A forked child closes its copies, which would keep a dead parent on the sidecar's list."""

import contextlib
import math
import os
import select
import socket
import threading
import weakref
from collections.abc import Iterable, Iterator
from typing import Protocol

_FORK_WAITS_S = 1.0


class ProcessOwned(Protocol):
    """Something that holds descriptors."""

    def abandon(self) -> None:
        """Close the copies that a child has inherited, and nothing else. Must not wait for any lock."""


_owners: "weakref.WeakSet[ProcessOwned]" = weakref.WeakSet()
_inherited: list[ProcessOwned] = []
_opening = threading.RLock()


def close_in_children(owner: ProcessOwned) -> None:
    """Call `abandon` in each child that Python forks, unless the object is gone by then."""
    _owners.add(owner)


@contextlib.contextmanager
def opening() -> Iterator[None]:
    """Hold off forks until a new descriptor is stored where `abandon` finds it."""
    lock = _opening
    with lock:
        yield


def _before_fork() -> None:
    _opening.acquire(timeout=_FORK_WAITS_S)  # not for ever, for opening may hang with its file system


def _after_in_parent() -> None:
    with contextlib.suppress(RuntimeError):  # it was not acquired in time
        _opening.release()


def _after_in_child() -> None:
    global _opening
    _opening = threading.RLock()
    for owner in list(_owners):
        owner.abandon()
        _inherited.append(owner)  # never freed: what is freed may speak to threads that only the parent has
    _owners.clear()


os.register_at_fork(before=_before_fork, after_in_parent=_after_in_parent, after_in_child=_after_in_child)


class Wake:
    """An event that can be waited for together with sockets. Any thread may set it."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._pair: tuple[socket.socket, socket.socket] | None = None
        with opening(), contextlib.suppress(OSError):  # without descriptors, the event is enough
            self._pair = socket.socketpair()
            close_in_children(self)
        for end in self._pair or ():
            end.setblocking(False)

    def is_set(self) -> bool:
        """Tell whether it was set since it was last cleared."""
        return self._event.is_set()

    def set(self) -> None:
        """Wake whoever waits."""
        self._event.set()
        if self._pair is not None:
            with contextlib.suppress(OSError):  # enough is written already, or it is closed
                self._pair[1].send(b"\0")

    def clear(self) -> None:
        """Begin anew. A `set` that comes in between is not lost."""
        if self._pair is not None:
            with contextlib.suppress(OSError):
                while self._pair[0].recv(4096):
                    pass
        self._event.clear()

    def wait(self, timeout_s: float, sockets: Iterable[socket.socket] = ()) -> bool:
        """Wait until it is set, or a socket is readable or closed by its other end. Return False when the time is over."""
        if self._pair is None:
            return self._event.wait(timeout_s)
        poll = select.poll()  # `select` refuses descriptors from 1024 on
        for one in (self._pair[0], *sockets):
            poll.register(one.fileno(), select.POLLIN)
        return bool(poll.poll(math.ceil(timeout_s * 1000)))

    def close(self) -> None:
        """Close both ends."""
        for end in self._pair or ():
            end.close()

    abandon = close
