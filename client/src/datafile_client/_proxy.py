"""Stands for one object of the SDK that each process makes for itself."""

import threading
from collections.abc import Callable
from typing import Any

from datafile_client import _log, _threads
from datafile_client._clock import monotonic
from datafile_client._per_process import PerProcess


class Proxy:
    """Forwards every attribute to the object of this process."""

    def __init__(self, make: Callable[[Any], Any], initial: Any = None) -> None:
        self._target: PerProcess[Any] = PerProcess(make, initial)
        self.is_shut_down = False

    def __getattr__(self, name: str) -> Any:
        # `copy` looks for dunder names, and Optimizely.close() would call `stop`. Neither may reach the SDK's object.
        if name.startswith("__") or name in ("_target", "stop"):
            raise AttributeError(name)
        return getattr(self._target.get(), name)

    def reopen(self) -> None:
        """Undo `shut_down`: the next use makes a new object."""
        if self.is_shut_down:
            self.is_shut_down = False
            self._target.discard()


def run_until(deadline: float, work: Callable[[], object]) -> bool:
    """Do work that may wait for a lock, for the network or for the app, and return at the deadline though it may go on.

    A signal handler may have interrupted its own thread in a moment in which that holds the lock. So the work gets a thread, where
    the system allows one.

    Args:
        deadline: a time on the monotonic clock, in seconds.
        work: what to do. Its errors are dropped.

    Returns:
        Whether it has ended.
    """

    def run() -> None:
        try:
            work()
        except Exception:
            _log.error("A component failed to stop", exc_info=True)

    thread = threading.Thread(target=run, name="datafile stop", daemon=True)
    if _threads.start(thread):
        thread.join(max(0.0, deadline - monotonic()))
        return not thread.is_alive()
    run()
    return True
