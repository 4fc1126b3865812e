"""Calls what the app has registered with `on_update`, on a thread of its own, so that a slow callback does not stop the watch."""

import inspect
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from optimizely.optimizely import Optimizely

from datafile_client import _log, _threads
from datafile_client._clock import monotonic
from datafile_client._flag_changes import FlagChanges, flag_digests
from datafile_client._instance_builder import BuiltInstance


@dataclass(eq=False, slots=True)
class Listener:
    """A callback, and the instance that it was called with last."""

    callback: Callable[..., object]
    wants_changes: bool
    called_with: Optimizely | None = None
    digests: Mapping[str, bytes] = field(default_factory=dict)

    @classmethod
    def of(cls, callback: Callable[..., object]) -> "Listener":
        """Register a callback; one that needs two arguments gets the changes, too."""
        return cls(callback, _needs_two(callback))

    def is_due(self, current: BuiltInstance) -> bool:
        """Tell whether it has to be called."""
        return self.called_with is not current.optimizely

    def call(self, current: BuiltInstance) -> None:
        """Call it. Its error is logged."""
        self.called_with, arguments = current.optimizely, list[Any]([current.optimizely])
        try:
            if self.wants_changes:
                before, self.digests = self.digests, flag_digests(current.datafile)
                arguments.append(FlagChanges.between(before, self.digests))
            self.callback(*arguments)
        except BaseException:  # sys.exit() would end only this thread
            _log.error("An on_update callback failed at revision %d", current.revision, exc_info=True)


class ListenerCalls:
    """The calls in one process. The thread lives only for as long as there is something to call.

    Args:
        next_call: returns what has to be called next, or None.
        in_place: make the calls in the thread that asks for them.
    """

    def __init__(self, next_call: Callable[[], tuple[Listener, BuiltInstance] | None], *, in_place: bool) -> None:
        self._next_call = next_call
        self._in_place = in_place
        self._lock = threading.RLock()  # never held while a callback runs
        self._thread: threading.Thread | None = None

    def make(self) -> None:
        """Make what is due, unless it is being made. Where the system allows no thread, the next turn tries again."""
        if self._in_place:
            self._run()
            return
        with self._lock:
            if self._thread is None and self._next_call() is not None:
                thread = threading.Thread(target=self._run, name="datafile callbacks", daemon=True)
                self._thread = thread if _threads.start(thread) else None

    def wait_for_end(self, ends_at: float) -> None:
        """Wait for a call that has begun, until then on the monotonic clock. Does nothing in a callback itself."""
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(max(0.0, ends_at - monotonic()))

    def _run(self) -> None:
        while True:
            with self._lock:
                if (due := self._next_call()) is None:
                    self._thread = None
                    return
            listener, current = due
            listener.call(current)


def _needs_two(callback: Callable[..., object]) -> bool:
    try:
        parameters = inspect.signature(callback).parameters.values()
    except (TypeError, ValueError):  # some callables in C
        return False
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(one.kind in positional and one.default is one.empty for one in parameters) == 2
