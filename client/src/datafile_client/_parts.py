"""What lives on when the instance is replaced: events, listeners, forced variations, CMAB, ODP.

Each `Optimizely` would make its own and lose what the old one held. They are made once per process and lent to every
instance through facades: a facade has no end that an old instance could bring about, and finds out by itself that the process
has been forked.
"""

import contextlib
import copy
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from optimizely.cmab import cmab_service
from optimizely.cmab.cmab_client import CmabRetryConfig, DefaultCmabClient
from optimizely.error_handler import NoOpErrorHandler
from optimizely.event.event_processor import BaseEventProcessor, BatchEventProcessor
from optimizely.event.user_event import UserEvent
from optimizely.helpers.sdk_settings import OptimizelySdkSettings
from optimizely.logger import NoOpLogger, adapt_logger
from optimizely.notification_center import NotificationCenter
from optimizely.odp.lru_cache import LRUCache
from optimizely.odp.odp_event_manager import OdpEventManager, Signal
from optimizely.odp.odp_manager import OdpManager

from datafile_client._process import PerProcess, exit_hooks

_log = logging.getLogger("datafile_client")
# The SDK's constructor hides these defaults in its body; a test compares.
_PROCESSOR_DEFAULTS = {"batch_size": 1, "flush_interval": 30, "timeout_interval": 5}


class Parts:
    """The shared parts of one watcher, made from the options of the SDK's constructor (already checked)."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = options
        self.logger: Any = adapt_logger(options.get("logger") or NoOpLogger())
        self.notification_center = options.get("notification_center") or NotificationCenter(self.logger)
        self.error_handler: Any = options.get("error_handler") or NoOpErrorHandler
        self.settings = options.get("settings") or OptimizelySdkSettings()
        self._processor_options = {**_PROCESSOR_DEFAULTS, **(options.get("event_processor_options") or {})}
        self.forced_variations: dict[str, dict[str, str]] = {}
        self.events = SharedEvents(self._make_processor, options.get("event_processor"))
        self.cmab: Any = Shared(self._make_cmab, options.get("cmab_service"))
        self.odp = SharedOdp(self._make_odp)

    def end(self) -> None:
        """Flush what is queued, within the event processor's timeout_interval (the SDK's default: 5 s) for all together."""
        deadline = time.monotonic() + self._processor_options["timeout_interval"]
        self.events.end(deadline)
        self.odp.end(deadline)

    def reopen(self) -> None:
        """Make them usable again after `end`."""
        self.events.reopen()
        self.odp.reopen()

    def _make_processor(self, inherited: Any) -> Any:
        exit_hooks.get()  # a child may use an instance and never the watcher
        if inherited is None:
            dispatcher, center = self.options.get("event_dispatcher"), self.notification_center
            settings = self._processor_options
            processor = BatchEventProcessor(dispatcher, self.logger, notification_center=center, **settings)
        elif not isinstance(inherited, BatchEventProcessor):
            return inherited  # what is of the app's own kind is taken as it is
        else:
            # Never the parent's queue: its events are the parent's to send, and its lock may be held for ever.
            processor = copy.copy(inherited)
            own: queue.Queue[Any] = queue.Queue(inherited.event_queue.maxsize)
            vars(processor).update(event_queue=own, _current_batch=[], executor=None)
        # The SDK shares one lock among all processors, and a fork can copy it held.
        vars(processor)["LOCK"] = threading.Lock()
        processor.start()
        return processor

    def _make_cmab(self, inherited: Any) -> Any:
        if inherited is None:
            size, timeout = cmab_service.DEFAULT_CMAB_CACHE_SIZE, cmab_service.DEFAULT_CMAB_CACHE_TIMEOUT
            endpoint = self.settings.cmab_prediction_endpoint
            client = DefaultCmabClient(retry_config=CmabRetryConfig(), logger=self.logger, prediction_endpoint=endpoint)
            return cmab_service.DefaultCmabService(LRUCache(size, timeout), client, self.logger)
        if type(inherited) is cmab_service.DefaultCmabService:
            return type(inherited)(_unlocked(inherited.cmab_cache), inherited.cmab_client, inherited.logger)
        return inherited

    def _make_odp(self, inherited: OdpManager | None) -> OdpManager:
        settings, events = self.settings, self.settings.odp_event_manager
        size, timeout = settings.segments_cache_size, settings.segments_cache_timeout_in_secs
        cache = settings.segments_cache or LRUCache(size, timeout)
        if inherited is not None:
            _unlocked(getattr(inherited.segment_manager, "segments_cache", None))
            if isinstance(events, OdpEventManager):  # its thread cannot start a second time
                events = type(events)(events.logger, events.api_manager, flush_interval=events.flush_interval)
        times = settings.fetch_segments_timeout, settings.odp_event_timeout, settings.odp_flush_interval
        manager = OdpManager(settings.odp_disabled, cache, settings.odp_segment_manager, events, *times, self.logger)
        if not self.odp.ended:
            manager.update_odp_config(*self.odp.config)
        return manager


def _unlocked(cache: Any) -> Any:
    if isinstance(cache, LRUCache):
        cache.lock = threading.Lock()  # the inherited one may be held by a thread that is no more
    return cache


class Shared:
    """A stand-in for one SDK object that is made anew in each process; all that is asked of it goes there."""

    def __init__(self, make: Callable[[Any], Any], given: Any = None) -> None:
        self._own: PerProcess[Any] = PerProcess(make, given)
        self.ended = False

    def __getattr__(self, name: str) -> Any:
        # What copying probes for is no question to the SDK's object; `stop` is what Optimizely.close() would call.
        if name.startswith("__") or name in ("_own", "stop"):
            raise AttributeError(name)
        return getattr(self._own.get(), name)

    def reopen(self) -> None:
        """Undo `end`: the next use makes a new one."""
        if self.ended:
            self.ended = False
            self._own.drop()


class SharedEvents(Shared, BaseEventProcessor):
    """The event processor as instances see it: all of its surface but `stop`, which Optimizely.close() would call."""

    def process(self, user_event: UserEvent) -> None:
        """Queue one event. After the end it is dropped, with a warning."""
        if self.ended:
            _log.warning("An event came after stop() and is dropped; decide and track before, or stop later")
            return
        self._own.get().process(user_event)

    def end(self, deadline: float) -> None:
        """Send what is queued, until the deadline on the monotonic clock; say how much was lost."""
        self.ended = True
        processor = self._own.peek()
        if not isinstance(processor, BatchEventProcessor):
            getattr(processor, "stop", lambda: None)()
            return
        waiting = processor.event_queue
        while waiting.full() and time.monotonic() < deadline:  # stop() would wait for ever for room
            time.sleep(0.01)
        if not waiting.full():
            processor.timeout_interval = timedelta(seconds=max(0.0, deadline - time.monotonic()))
            processor.stop()
        if lost := waiting.qsize() + processor.is_running:
            _log.warning("Up to %d events are lost: they came during stop(), or the dispatcher did not answer", lost)


class SharedOdp(Shared):
    """The ODP manager as instances see it: `close` by an old instance does nothing."""

    config: tuple[str | None, str | None, list[str]] = (None, None, [])

    def close(self) -> None:
        """Do nothing: the instance that is being closed does not own it."""

    def update_odp_config(self, api_key: str | None, api_host: str | None, segments: list[str]) -> None:
        """Follow the datafile: its ODP account and the segments that its audiences ask for."""
        self.config = (api_key, api_host, segments)
        if (manager := self._own.peek()) is not None:  # its thread need not start before somebody uses it
            manager.update_odp_config(*self.config)

    def end(self, deadline: float) -> None:
        """Send what is queued, until the deadline on the monotonic clock."""
        self.ended = True
        events = getattr(self._own.peek(), "event_manager", None)
        if not isinstance(events, OdpEventManager):
            getattr(events, "stop", lambda: None)()
        elif events.is_running:
            with contextlib.suppress(queue.Full):  # its own stop() would join without a limit
                events.event_queue.put_nowait(Signal.SHUTDOWN)
            events.thread.join(max(0.0, deadline - time.monotonic()))
