"""Makes OpenFeature's SDK survive a fork: it makes its locks, and the pool of threads that runs event handlers, once, at import."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar, cast

from openfeature import _event_support
from openfeature.provider._registry import provider_registry

from datafile_client._per_process import PerProcess

P = ParamSpec("P")
T = TypeVar("T")


class HandlerPool(Executor):
    """The pool that runs event handlers. Each process makes its own, when it runs its first handler.

    Then gevent, too, has patched what it will: under gunicorn's preload, it does so in each worker after the fork.
    """

    def __init__(self) -> None:
        self._pool = PerProcess(lambda _: ThreadPoolExecutor(thread_name_prefix="openfeature-event-handler"))

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run a handler on a thread of this process."""
        return self._pool.get().submit(fn, *args, **kwargs)


def survive_forks() -> None:
    """Give OpenFeature's SDK a pool that each process makes for itself, and each child new locks. Makes no thread and no lock."""
    _event_support._event_executor = cast("Any", HandlerPool())
    os.register_at_fork(after_in_child=_renew_locks)


def _renew_locks() -> None:
    """Give a child locks of its own. Some of the parent's may be held, by threads that the child does not have."""
    _event_support._global_lock = threading.RLock()
    _event_support._client_lock = threading.RLock()
    provider_registry._lock = threading.RLock()
