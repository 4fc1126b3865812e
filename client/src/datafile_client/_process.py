"""What has to be made anew in every process, and what has to be done before a process ends.

Threads, locks and sockets do not survive a fork. Python's own hooks at fork are not enough: uWSGI forks in C and runs none.
So the process id is compared on each use, which costs some 50 ns.
"""

import atexit
import contextlib
import os
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class PerProcess(Generic[T]):
    """A value that each process makes on its first use there.

    Args:
        make: makes the value; it is given the one that was inherited through a fork, if any, so as to copy what may be
            copied. It must not call back into this object.
        given: this process's value, where there is one already.
    """

    def __init__(self, make: Callable[[T | None], T], given: T | None = None) -> None:
        self._make = make
        self._owned: tuple[int, T] | None = None if given is None else (os.getpid(), given)
        self._locks: dict[int, threading.Lock] = {}

    def get(self) -> T:
        """Return this process's value, making it if need be."""
        pid = os.getpid()
        owned = self._owned
        if owned is not None and owned[0] == pid:
            return owned[1]
        # An inherited lock may be held by a thread that the fork left behind. setdefault is atomic: one lock a process.
        with self._locks.setdefault(pid, threading.Lock()):
            owned = self._owned
            if owned is None or owned[0] != pid:
                self._owned = owned = (pid, self._make(owned[1] if owned else None))
                self._locks = {pid: self._locks[pid]}
        return owned[1]

    def peek(self) -> T | None:
        """Return this process's value if there is one; what belongs to a parent does not count."""
        owned = self._owned
        return owned[1] if owned is not None and owned[0] == os.getpid() else None

    def drop(self) -> None:
        """Disown the value: the next use makes another, as if this one had been inherited."""
        if self._owned is not None:
            self._owned = (0, self._owned[1])


def lock_per_process() -> PerProcess[Any]:
    """Return a lock that no fork can copy held, and that a signal handler may take again."""
    return PerProcess(lambda _: threading.RLock())


def is_about_to_fork_in_c() -> bool:
    """Tell whether this is uWSGI loading the app before it forks.

    It lets go of the GIL then: a thread that just holds it would take it into no child's hands.
    """
    uwsgi = sys.modules.get("uwsgi")
    return uwsgi is not None and uwsgi.worker_id() == 0 and uwsgi.masterpid() in (0, os.getpid())


_stoppables: "weakref.WeakSet[Any]" = weakref.WeakSet()


def stop_at_exit(stoppable: Any) -> None:
    """Have its `stop()` called when this process ends, by whatever way that runs any Python code at all."""
    _stoppables.add(stoppable)
    exit_hooks.get()


def _stop_all(*_: Any, **__: Any) -> None:
    for stoppable in list(_stoppables):
        with contextlib.suppress(Exception):  # the others have events to flush, too
            stoppable.stop()


def _hook_into_the_end(inherited: bool | None) -> bool:
    if not inherited:
        atexit.register(_stop_all)
    # Children of multiprocessing and Celery leave by os._exit, where atexit is silent; each has a hook of its own. An app
    # that uses neither is spared the import.
    if "multiprocessing.util" in sys.modules:
        from multiprocessing import util

        util.Finalize(None, _stop_all, exitpriority=0)
        # A spawned child imports its main module first and clears the finalizers then.
        util.register_after_fork(exit_hooks, PerProcess.drop)
        util.register_after_fork(exit_hooks, PerProcess.get)
    if "celery.signals" in sys.modules:
        sys.modules["celery.signals"].worker_process_shutdown.connect(_stop_all, weak=False, dispatch_uid=__name__)
    return True


# Getting it in a process makes that process, too, stop what was named before it was forked.
exit_hooks = PerProcess(_hook_into_the_end)
