"""Values that each process must make for itself, because threads, locks and sockets do not survive a fork.

Python's fork hooks are not enough: uWSGI forks in C and runs none of them. So the process id is compared on each use, which
costs some 50 ns.
"""

import os
import sys
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class PerProcess(Generic[T]):
    """A value that each process makes on its first use.

    Args:
        make: makes the value. Its argument is the value that was inherited through a fork, or None. It must not call back
            into this object.
        initial: this process's value, if there is one already.
    """

    def __init__(self, make: Callable[[T | None], T], initial: T | None = None) -> None:
        self._make = make
        self._owned: tuple[int, T] | None = None if initial is None else (os.getpid(), initial)
        self._locks: dict[int, Any] = {}

    def get(self) -> T:
        """Return this process's value. Make it first if there is none."""
        pid = os.getpid()
        owned = self._owned
        if owned is not None and owned[0] == pid:
            return owned[1]
        # An inherited lock may be held by a thread that the child does not have. setdefault is atomic: one lock per process.
        with self._locks.setdefault(pid, threading.RLock()):
            owned = self._owned
            if owned is None or owned[0] != pid:
                made = self._make(owned[1] if owned else None)
                owned = self._owned
                if owned is None or owned[0] != pid:  # a signal handler may have made one meanwhile
                    self._owned = owned = (pid, made)
                self._locks = {pid: self._locks[pid]}
        return owned[1]

    def peek(self) -> T | None:
        """Return this process's value, or None if it has made none. A parent's value does not count."""
        owned = self._owned
        return owned[1] if owned is not None and owned[0] == os.getpid() else None

    def discard(self) -> None:
        """Make the next use create a new value, as if this one had been inherited."""
        if self._owned is not None:
            self._owned = (0, self._owned[1])


def lock_per_process() -> PerProcess[Any]:
    """Return a reentrant lock that a child never inherits in the locked state."""
    return PerProcess(lambda _: threading.RLock())


def is_about_to_fork_in_c() -> bool:
    """Tell whether this is uWSGI, loading the app before it forks.

    uWSGI releases the GIL before that fork. If another thread held it at that moment, every child would wait for it for ever.
    """
    uwsgi = sys.modules.get("uwsgi")
    return uwsgi is not None and uwsgi.worker_id() == 0 and uwsgi.masterpid() in (0, os.getpid())
