"""The event processor that all instances of a watcher share. A child never has it in common with its parent."""

import contextlib
import copy
import queue
import threading
import time
import weakref
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from optimizely.event.event_processor import BaseEventProcessor, BatchEventProcessor
from optimizely.event.user_event import UserEvent

from datafile_client import _log
from datafile_client._clock import monotonic
from datafile_client._proxy import Proxy, run_until

_DRAINED_WITHIN_S = 0.1  # beyond the deadline, to see and to log what is lost
# How many started watchers use a processor that the app has given to them.
_users: "weakref.WeakKeyDictionary[Any, int]" = weakref.WeakKeyDictionary()


class EventProcessorProxy(Proxy, BaseEventProcessor):
    """The event processor that instances see: without `stop`, which Optimizely.close() would call.

    Args:
        make: makes the SDK's own one.
        given: the app's own one, or None.
    """

    def __init__(self, make: Callable[[], BatchEventProcessor], given: Any) -> None:
        self._make, self._given = make, given
        super().__init__(self._begin, given)

    @property
    def timeout_s(self) -> float:
        """How long `shut_down` may take, in seconds: the processor's `timeout_interval`."""
        timeout = getattr(self._given, "timeout_interval", None)
        return timeout.total_seconds() if isinstance(timeout, timedelta) else 0.0

    def process(self, user_event: UserEvent) -> None:
        """Queue one event. After `shut_down`, drop it with a warning."""
        if self.is_shut_down:
            _log.warning("Dropped an event that was tracked after stop(); call stop() later")
            return
        processor = self._target.get()
        processor.process(user_event)
        if self._given is None and not processor.is_running:
            _start(processor)

    def open(self) -> None:
        """Begin to use it. After `shut_down`, one of the app's own is started again, if it has a method `start`."""
        is_again = self.is_shut_down
        self.reopen()
        if is_again and self._given is not None and not isinstance(self._given, BatchEventProcessor):
            getattr(self._given, "start", lambda: None)()
        with contextlib.suppress(TypeError):  # None, or something that can't be counted
            _users[self._given] = _users.get(self._given, 0) + 1

    def shut_down(self, deadline: float) -> None:
        """Send what is queued until the deadline, and log how many events are lost.

        Args:
            deadline: a time on the monotonic clock, in seconds.
        """
        self.is_shut_down = True
        processor, others = self._target.peek(), 0
        with contextlib.suppress(TypeError):
            _users[self._given] = others = max(0, _users.get(self._given, 0) - 1)
        if not isinstance(processor, BatchEventProcessor):
            stop = getattr(processor, "stop", None)
            if stop is not None and not others:
                run_until(deadline, stop)
        elif others:
            run_until(deadline, processor.flush)
        else:
            if not run_until(deadline + _DRAINED_WITHIN_S, lambda: _drain(processor, deadline)):
                _log.warning("Events may be lost: the event processor did not stop in time")

    def _begin(self, inherited: Any) -> Any:
        if inherited is None:
            processor = self._make()
        elif not isinstance(inherited, BatchEventProcessor):
            return inherited  # an app's own implementation, of which nothing is known
        elif inherited.is_running:
            return inherited  # another watcher uses it
        else:
            # The child gets a new queue. The parent sends the events in the old one, and its lock may stay locked for ever.
            processor = copy.copy(inherited)
            new_queue: queue.Queue[Any] = queue.Queue(inherited.event_queue.maxsize)
            vars(processor).update(event_queue=new_queue, _current_batch=[], executor=None)
        # In the SDK all processors share one lock, and a fork can copy it while it is held.
        vars(processor)["LOCK"] = threading.Lock()
        _start(processor)
        return processor


def _start(processor: BatchEventProcessor) -> None:
    try:
        processor.start()
    except RuntimeError as error:
        processor.executor = None  # what could not be started can't be joined
        _log.error_now_and_then("Events wait in the queue until a thread can be started: %s", error)


def _drain(processor: BatchEventProcessor, deadline: float) -> None:
    events, own_timeout = processor.event_queue, processor.timeout_interval
    while events.full() and monotonic() < deadline:  # stop() puts a signal into the queue, without a timeout
        time.sleep(0.01)
    if not events.full():
        processor.timeout_interval = timedelta(seconds=max(0.0, deadline - monotonic()))
        try:
            with contextlib.suppress(RuntimeError):  # a signal handler stops what its thread is just starting
                processor.stop()
            if processor.executor is None and hasattr(processor, "flushing_interval_deadline"):
                processor._run()  # it got no thread when it was started
        finally:
            processor.timeout_interval = own_timeout
    if lost := events.qsize() + processor.is_running:
        _log.warning("Up to %d events are lost: tracked during stop(), or the dispatcher did not return", lost)
