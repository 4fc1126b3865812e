"""Stops watchers when the process ends, by whichever way that still runs Python code."""

import atexit
import contextlib
import sys
import weakref
from typing import Any

from datafile_client._per_process import PerProcess

_stoppables: "weakref.WeakSet[Any]" = weakref.WeakSet()


def stop_at_exit(stoppable: Any) -> None:
    """Call the object's `stop()` when this process or a child of it ends, unless the object is gone by then."""
    _stoppables.add(stoppable)
    exit_hooks.get()


def _stop_all(*_: Any, **__: Any) -> None:
    for stoppable in list(_stoppables):
        with contextlib.suppress(Exception):  # the others must still be stopped
            stoppable.stop()


def _register(inherited: bool | None) -> bool:
    if not inherited:
        atexit.register(_stop_all)
    # Children of multiprocessing and Celery leave by os._exit, which skips atexit. Each of the two has a hook of its own. An app
    # that uses neither should not have to import them.
    if "multiprocessing.util" in sys.modules:
        from multiprocessing import util

        util.Finalize(None, _stop_all, exitpriority=0)
        # A spawned child first imports its main module and then clears the finalizers, so this one is registered again.
        util.register_after_fork(exit_hooks, PerProcess.discard)
        util.register_after_fork(exit_hooks, PerProcess.get)
    if "celery.signals" in sys.modules:
        sys.modules["celery.signals"].worker_process_shutdown.connect(_stop_all, weak=False, dispatch_uid=__name__)
    return True


# A child that calls get() also stops what was registered before it was forked.
exit_hooks = PerProcess(_register)
