"""The event processor of an app's own: shared, with its own limits, or without a thread."""

import queue
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from optimizely.event.event_processor import BatchEventProcessor

from tests.client.conftest import MakeWatcher
from tests.client.helpers import publish, wait_until


class Dispatcher:
    """Counts events; takes some time for each batch."""

    def __init__(self, seconds: float = 0) -> None:
        self.seconds, self.users = seconds, list[str]()

    def dispatch_event(self, event: Any) -> None:
        time.sleep(self.seconds)
        self.users += [visitor["visitor_id"] for visitor in event.params["visitors"]]


def test_a_processor_that_two_watchers_share_ends_with_the_last_one(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user of two SDK keys and one event processor loses no event of the second when the first is stopped."""
    publish(directory, 1)
    dispatcher = Dispatcher()
    processor = BatchEventProcessor(dispatcher, batch_size=10, flush_interval=60, start_on_init=True)
    first, second = (make_watcher(optimizely_options={"event_processor": processor}) for _ in range(2))
    first.start()
    second.start()
    first.optimizely.track("bought", "a")
    first.stop()
    wait_until(lambda: dispatcher.users == ["a"])
    assert processor.is_running
    first.start()
    first.optimizely.track("bought", "b")
    second.optimizely.track("bought", "c")
    second.stop()
    assert processor.is_running
    first.stop()
    assert sorted(dispatcher.users) == ["a", "b", "c"]
    assert not processor.is_running


def test_the_processors_own_time_limit_holds(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user's own processor may take the time that it was made with, not the SDK's 5 s, and keeps it for the next stop."""
    publish(directory, 1)
    dispatcher = Dispatcher(seconds=6)
    processor = BatchEventProcessor(dispatcher, batch_size=100, timeout_interval=40, start_on_init=True)
    watcher = make_watcher(optimizely_options={"event_processor": processor})
    watcher.start()
    watcher.optimizely.track("bought", "a")
    watcher.stop()
    assert dispatcher.users == ["a"]
    assert processor.timeout_interval.total_seconds() == 40


def test_one_that_the_app_has_not_started_stays_so(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user's own processor is used as the plain SDK uses it; stop() says what is lost, and does not hang."""
    publish(directory, 1)
    watcher = make_watcher(optimizely_options={"event_processor": BatchEventProcessor(Dispatcher())})
    watcher.start()
    watcher.optimizely.track("bought", "a")
    began = time.monotonic()
    watcher.stop()
    assert time.monotonic() - began < 4


def test_an_own_kind_of_processor_is_stopped_and_started(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user's own implementation gets its `start` after a stop, where it has one."""

    class Own:
        calls: list[str] = []  # noqa: RUF012

        def process(self, _: object) -> None:
            self.calls.append("process")

        def start(self) -> None:
            self.calls.append("start")

        def stop(self) -> None:
            self.calls.append("stop")

    publish(directory, 1)
    watcher = make_watcher(optimizely_options={"event_processor": Own()})
    for _ in range(2):
        watcher.start()
        watcher.optimizely.track("bought", "a")
        watcher.stop()
    assert Own.calls == ["process", "stop", "start", "process", "stop"]


def test_events_wait_for_a_thread(
    directory: Path, make_watcher: MakeWatcher, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A user at the limit of threads gets decisions; the events are sent as soon as a thread can start, or by stop()."""
    publish(directory, 1)
    dispatcher, refused, start = Dispatcher(), [True], BatchEventProcessor.start

    def refuse(processor: BatchEventProcessor) -> None:
        if refused[0]:
            raise RuntimeError("can't start new thread")
        start(processor)

    monkeypatch.setattr(BatchEventProcessor, "start", refuse)
    watcher = make_watcher(optimizely_options={"event_dispatcher": dispatcher})
    watcher.start()
    watcher.optimizely.track("bought", "a")
    watcher.optimizely.track("bought", "b")
    assert dispatcher.users == []
    assert caplog.text.count("Events wait in the queue") == 1
    refused[0] = False
    watcher.optimizely.track("bought", "c")
    wait_until(lambda: dispatcher.users == ["a", "b", "c"])


def test_a_stop_beside_a_held_queue_is_bounded(directory: Path, make_watcher: MakeWatcher) -> None:
    """A signal handler that stops the watcher while its own thread holds the queue's lock waits for its limit, not for ever."""
    publish(directory, 1)
    events: queue.Queue[Any] = queue.Queue(100)
    options: Any = {
        "event_dispatcher": Dispatcher(),
        "event_processor_options": {"event_queue": events, "timeout_interval": 1},
    }
    watcher = make_watcher(optimizely_options=options)
    watcher.start()
    watcher.optimizely.track("bought", "a")
    with events.mutex:
        began = time.monotonic()
        watcher.stop()
        assert time.monotonic() - began < 5
    assert threading.active_count() < 20
