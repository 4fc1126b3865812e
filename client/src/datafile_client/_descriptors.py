"""Descriptors of one process. A forked child closes its copies, which would keep a dead parent on the sidecar's list."""

import contextlib
import math
import os
import select
import socket
import threading
import time
import weakref
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from datafile_client import _threads
from datafile_client._clock import monotonic

_LOOK_S = 0.05
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
    """A flag that can be waited for together with sockets. Any thread may set it, and any signal handler."""

    def __init__(self) -> None:
        self._is_set = False
        self._pipe: tuple[int, ...] = ()
        with opening(), contextlib.suppress(OSError):  # without descriptors, it is looked at now and then
            self._pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
            close_in_children(self)

    def is_set(self) -> bool:
        """Tell whether it was set since it was last cleared."""
        return self._is_set

    def set(self) -> None:
        """Wake whoever waits."""
        self._is_set = True
        if pipe := self._pipe:
            with contextlib.suppress(OSError):  # enough is written already, or it is closed
                os.write(pipe[1], b"\0")

    def clear(self) -> None:
        """Begin anew. A `set` that comes in between is not lost."""
        if pipe := self._pipe:
            with contextlib.suppress(OSError):
                while _are_readable(pipe[:1], 0):
                    os.read(pipe[0], 4096)
        self._is_set = False

    def wait(self, timeout_s: float, sockets: Iterable[socket.socket] = ()) -> bool:
        """Wait until it is set, or a socket is readable or closed by its other end. Return False when the time is over."""
        if not self._pipe:
            return self._look(timeout_s)
        return _are_readable((self._pipe[0], *(one.fileno() for one in sockets)), timeout_s)

    def _look(self, timeout_s: float) -> bool:
        ends_at = monotonic() + timeout_s
        while not self._is_set and (left_s := ends_at - monotonic()) > 0:
            time.sleep(min(left_s, _LOOK_S))
        return self._is_set

    def close(self) -> None:
        """Close both ends."""
        pipe, self._pipe = self._pipe, ()
        for end in pipe:
            os.close(end)

    abandon = close


def _are_readable(descriptors: Sequence[int], timeout_s: float) -> bool:
    """Wait until one of them is readable. Return False when the time is over."""
    if _threads.are_greenlets():  # they know `select`; eventlet has no `poll`
        return bool(select.select(descriptors, [], [], timeout_s)[0])
    poll = select.poll()  # `select` itself refuses descriptors from 1024 on
    for one in descriptors:
        poll.register(one, select.POLLIN)
    return bool(poll.poll(math.ceil(timeout_s * 1000)))
