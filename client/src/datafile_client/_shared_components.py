"""The components of the SDK that outlive one instance: events, listeners, forced variations, CMAB and ODP.

Each `Optimizely` would make its own and lose what the old one held. So they are made once per process, and every instance gets
proxies to them. Closing an instance does not close the component behind a proxy, and a proxy notices by itself that the
process has been forked.
"""

import contextlib
import copy
import functools
import queue
import threading
from collections.abc import Mapping
from typing import Any

from optimizely.cmab import cmab_service
from optimizely.cmab.cmab_client import CmabRetryConfig, DefaultCmabClient
from optimizely.error_handler import NoOpErrorHandler
from optimizely.event.event_processor import BatchEventProcessor
from optimizely.helpers.sdk_settings import OptimizelySdkSettings
from optimizely.logger import NoOpLogger, adapt_logger
from optimizely.notification_center import NotificationCenter
from optimizely.odp.lru_cache import LRUCache
from optimizely.odp.odp_event_manager import OdpEventManager, Signal
from optimizely.odp.odp_manager import OdpManager

from datafile_client import _log
from datafile_client._clock import monotonic
from datafile_client._exit_hooks import exit_hooks
from datafile_client._proxy import Proxy, run_until
from datafile_client._shared_events import EventProcessorProxy

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
        self._processor_options.pop("start_on_init", None)  # each process starts its own at the first event
        self.forced_variations: dict[str, dict[str, str]] = {}
        self.event_processor = EventProcessorProxy(self._make_event_processor, options.get("event_processor"))
        self.cmab_service: Any = Proxy(self._make_cmab_service, options.get("cmab_service"))
        self.odp_manager = OdpManagerProxy(self._make_odp_manager)

    @property
    def timeout_s(self) -> float:
        """How long `shut_down` may take, in seconds: the `timeout_interval` of the event processor."""
        return float(self.event_processor.timeout_s or self._processor_options["timeout_interval"])

    def shut_down(self) -> None:
        """Send what is queued, within the event processor's timeout_interval (5 s by default) for everything together."""
        deadline = monotonic() + self.timeout_s
        self.event_processor.shut_down(deadline)
        self.odp_manager.shut_down(deadline)

    def open(self) -> None:
        """Begin to use them, again after `shut_down`."""
        self.event_processor.open()
        self.odp_manager.reopen()

    def reopen(self) -> None:
        """Undo a `shut_down` that a signal handler has overtaken by `open`."""
        self.event_processor.reopen()
        self.odp_manager.reopen()

    def _make_event_processor(self) -> BatchEventProcessor:
        exit_hooks.get()  # a child may use an instance and never the watcher
        dispatcher, center = self.options.get("event_dispatcher"), self.notification_center
        return BatchEventProcessor(dispatcher, self.logger, notification_center=center, **self._processor_options)

    def _make_cmab_service(self, inherited: Any) -> Any:
        if inherited is None:
            size, timeout = cmab_service.DEFAULT_CMAB_CACHE_SIZE, cmab_service.DEFAULT_CMAB_CACHE_TIMEOUT
            endpoint = self.settings.cmab_prediction_endpoint
            client = DefaultCmabClient(retry_config=CmabRetryConfig(), logger=self.logger, prediction_endpoint=endpoint)
            return cmab_service.DefaultCmabService(LRUCache(size, timeout), client, self.logger)
        if not isinstance(inherited, cmab_service.DefaultCmabService):
            return inherited  # an app's own implementation, of which nothing is known
        service, client = copy.copy(inherited), inherited.cmab_client
        if isinstance(client, DefaultCmabClient):
            client = copy.copy(client)
            client.http_client = copy.deepcopy(client.http_client)  # with connections of its own
        locks = [threading.Lock() for _ in inherited.locks]
        vars(service).update(cmab_cache=_with_new_lock(inherited.cmab_cache), cmab_client=client, locks=locks)
        return service

    def _make_odp_manager(self, inherited: OdpManager | None) -> OdpManager:
        settings, events = self.settings, self.settings.odp_event_manager
        size, timeout = settings.segments_cache_size, settings.segments_cache_timeout_in_secs
        cache = settings.segments_cache or LRUCache(size, timeout)
        if inherited is not None:
            _with_new_lock(getattr(inherited.segment_manager, "segments_cache", None))
            if isinstance(events, OdpEventManager):
                events = _revived(events)
        times = settings.fetch_segments_timeout, settings.odp_event_timeout, settings.odp_flush_interval
        manager = OdpManager(settings.odp_disabled, cache, settings.odp_segment_manager, events, *times, self.logger)
        if not self.odp_manager.is_shut_down:
            manager.update_odp_config(*self.odp_manager.config)
        return manager


def _revived(events: OdpEventManager) -> OdpEventManager:
    """Return a copy with an empty queue, whose thread can be started: a thread starts only once."""
    revived = copy.copy(events)
    new_queue: queue.Queue[Any] = queue.Queue(events.event_queue.maxsize)
    thread = threading.Thread(target=revived._run, name="OdpThread", daemon=True)
    vars(revived).update(event_queue=new_queue, _current_batch=[], thread=thread, thread_exception=False)
    return revived


def _with_new_lock(cache: Any) -> Any:
    if isinstance(cache, LRUCache):
        cache.lock = threading.Lock()  # the inherited lock may be held by a thread that the child does not have
    return cache


class OdpManagerProxy(Proxy):
    """The ODP manager that instances see: an old instance cannot close it."""

    config: tuple[str | None, str | None, list[str]] = (None, None, [])

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except RuntimeError as error:  # of its thread
            _log.error_now_and_then("There is no ODP until a thread can be started: %s", error)
            return getattr(OdpManager(True), name)

    def close(self) -> None:
        """Send what is queued. The instance that is being closed does not own the manager, which goes on."""
        events = getattr(self._target.peek(), "event_manager", None)
        if isinstance(events, OdpEventManager) and events.is_running:
            events.flush()

    def update_odp_config(self, api_key: str | None, api_host: str | None, segments: list[str]) -> None:
        """Use the ODP account and the segments of a new datafile."""
        self.config = (api_key, api_host, segments)
        if (manager := self._target.peek()) is not None:  # if not, its thread starts at the first use
            with contextlib.suppress(RuntimeError):  # it can't be started now
                manager.update_odp_config(*self.config)

    def shut_down(self, deadline: float) -> None:
        """Send what is queued until the deadline.

        Args:
            deadline: a time on the monotonic clock, in seconds.
        """
        self.is_shut_down = True
        events = getattr(self._target.peek(), "event_manager", None)
        if isinstance(events, OdpEventManager):
            if events.is_running:
                run_until(deadline, functools.partial(_end, events, deadline))
        elif (stop := getattr(events, "stop", None)) is not None:
            run_until(deadline, stop)


def _end(events: OdpEventManager, deadline: float) -> None:
    events.event_queue.put(
        Signal.SHUTDOWN, timeout=max(0.0, deadline - monotonic())
    )  # its own stop() would join for ever
    events.thread.join(max(0.0, deadline - monotonic()))
