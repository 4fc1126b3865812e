"""The components of the SDK that outlive one instance: events, listeners, forced variations, CMAB and ODP.

Each `Optimizely` would make its own and lose what the old one held. So they are made once per process, and every instance gets
proxies to them. Closing an instance does not close the component behind a proxy, and a proxy notices by itself that the
process has been forked.
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

from datafile_client._exit_hooks import exit_hooks
from datafile_client._per_process import PerProcess

_log = logging.getLogger("datafile_client")
# The SDK's constructor has these defaults in its body, where they cannot be imported. A test compares them.
_PROCESSOR_DEFAULTS = {"batch_size": 1, "flush_interval": 30, "timeout_interval": 5}


class SharedComponents:
    """The shared components of one watcher, made from the options of the SDK's constructor (already checked)."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = options
        self.logger: Any = adapt_logger(options.get("logger") or NoOpLogger())
        self.notification_center = options.get("notification_center") or NotificationCenter(self.logger)
        self.error_handler: Any = options.get("error_handler") or NoOpErrorHandler
        self.settings = options.get("settings") or OptimizelySdkSettings()
        self._processor_options = {**_PROCESSOR_DEFAULTS, **(options.get("event_processor_options") or {})}
        self.forced_variations: dict[str, dict[str, str]] = {}
        self.event_processor = EventProcessorProxy(self._make_event_processor, options.get("event_processor"))
        self.cmab_service: Any = Proxy(self._make_cmab_service, options.get("cmab_service"))
        self.odp_manager = OdpManagerProxy(self._make_odp_manager)

    def shut_down(self) -> None:
        """Send what is queued, within the event processor's timeout_interval (5 s by default) for everything together."""
        deadline = time.monotonic() + self._processor_options["timeout_interval"]
        self.event_processor.shut_down(deadline)
        self.odp_manager.shut_down(deadline)

    def reopen(self) -> None:
        """Make them usable again after `shut_down`."""
        self.event_processor.reopen()
        self.odp_manager.reopen()

    def _make_event_processor(self, inherited: Any) -> Any:
        exit_hooks.get()  # a child may use an instance and never the watcher
        if inherited is None:
            dispatcher, center = self.options.get("event_dispatcher"), self.notification_center
            options = self._processor_options
            processor = BatchEventProcessor(dispatcher, self.logger, notification_center=center, **options)
        elif not isinstance(inherited, BatchEventProcessor):
            return inherited  # an app's own implementation, of which nothing is known
        else:
            # The child gets a new queue. The parent sends the events in the old one, and its lock may stay locked for ever.
            processor = copy.copy(inherited)
            new_queue: queue.Queue[Any] = queue.Queue(inherited.event_queue.maxsize)
            vars(processor).update(event_queue=new_queue, _current_batch=[], executor=None)
        # In the SDK all processors share one lock, and a fork can copy it while it is held.
        vars(processor)["LOCK"] = threading.Lock()
        processor.start()
        return processor

    def _make_cmab_service(self, inherited: Any) -> Any:
        if inherited is None:
            size, timeout = cmab_service.DEFAULT_CMAB_CACHE_SIZE, cmab_service.DEFAULT_CMAB_CACHE_TIMEOUT
            endpoint = self.settings.cmab_prediction_endpoint
            client = DefaultCmabClient(retry_config=CmabRetryConfig(), logger=self.logger, prediction_endpoint=endpoint)
            return cmab_service.DefaultCmabService(LRUCache(size, timeout), client, self.logger)
        if type(inherited) is cmab_service.DefaultCmabService:
            return type(inherited)(_with_new_lock(inherited.cmab_cache), inherited.cmab_client, inherited.logger)
        return inherited

    def _make_odp_manager(self, inherited: OdpManager | None) -> OdpManager:
        settings, events = self.settings, self.settings.odp_event_manager
        size, timeout = settings.segments_cache_size, settings.segments_cache_timeout_in_secs
        cache = settings.segments_cache or LRUCache(size, timeout)
        if inherited is not None:
            _with_new_lock(getattr(inherited.segment_manager, "segments_cache", None))
            if isinstance(events, OdpEventManager):  # its thread cannot start a second time
                events = type(events)(events.logger, events.api_manager, flush_interval=events.flush_interval)
        times = settings.fetch_segments_timeout, settings.odp_event_timeout, settings.odp_flush_interval
        manager = OdpManager(settings.odp_disabled, cache, settings.odp_segment_manager, events, *times, self.logger)
        if not self.odp_manager.is_shut_down:
            manager.update_odp_config(*self.odp_manager.config)
        return manager


def _with_new_lock(cache: Any) -> Any:
    if isinstance(cache, LRUCache):
        cache.lock = threading.Lock()  # the inherited lock may be held by a thread that the child does not have
    return cache


class Proxy:
    """Stands for one SDK object that each process makes for itself, and forwards every attribute to it."""

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


class EventProcessorProxy(Proxy, BaseEventProcessor):
    """The event processor that instances see: without `stop`, which Optimizely.close() would call."""

    def process(self, user_event: UserEvent) -> None:
        """Queue one event. After `shut_down`, drop it with a warning."""
        if self.is_shut_down:
            _log.warning("Dropped an event that was tracked after stop(); call stop() later")
            return
        self._target.get().process(user_event)

    def shut_down(self, deadline: float) -> None:
        """Send what is queued until the deadline, and log how many events are lost.

        Args:
            deadline: a time on the monotonic clock, in seconds.
        """
        self.is_shut_down = True
        processor = self._target.peek()
        if not isinstance(processor, BatchEventProcessor):
            getattr(processor, "stop", lambda: None)()
            return
        events = processor.event_queue
        while events.full() and time.monotonic() < deadline:  # stop() puts a signal into the queue, without a timeout
            time.sleep(0.01)
        if not events.full():
            processor.timeout_interval = timedelta(seconds=max(0.0, deadline - time.monotonic()))
            processor.stop()
        if lost := events.qsize() + processor.is_running:
            _log.warning("Up to %d events are lost: tracked during stop(), or the dispatcher did not return", lost)


class OdpManagerProxy(Proxy):
    """The ODP manager that instances see: an old instance cannot close it."""

    config: tuple[str | None, str | None, list[str]] = (None, None, [])

    def close(self) -> None:
        """Do nothing, because the instance that is being closed does not own the manager."""

    def update_odp_config(self, api_key: str | None, api_host: str | None, segments: list[str]) -> None:
        """Use the ODP account and the segments of a new datafile."""
        self.config = (api_key, api_host, segments)
        if (manager := self._target.peek()) is not None:  # if not, its thread starts at the first use
            manager.update_odp_config(*self.config)

    def shut_down(self, deadline: float) -> None:
        """Send what is queued until the deadline.

        Args:
            deadline: a time on the monotonic clock, in seconds.
        """
        self.is_shut_down = True
        events = getattr(self._target.peek(), "event_manager", None)
        if not isinstance(events, OdpEventManager):
            getattr(events, "stop", lambda: None)()
        elif events.is_running:
            with contextlib.suppress(queue.Full):  # its own stop() would join without a timeout
                events.event_queue.put_nowait(Signal.SHUTDOWN)
            events.thread.join(max(0.0, deadline - time.monotonic()))
