"""The components that outlive an instance keep events, listeners and settings over swaps, forks and stop()."""

import json
import logging
import logging.config
import queue
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from optimizely.event.event_processor import BatchEventProcessor
from optimizely.helpers.enums import NotificationTypes
from optimizely.helpers.sdk_settings import OptimizelySdkSettings
from optimizely.notification_center import NotificationCenter
from optimizely.odp.odp_event_manager import OdpEventManager
from optimizely.optimizely import Optimizely
from optimizely.user_profile import UserProfileService

from datafile_client.testing import make_datafile, write_datafile
from tests.client.conftest import MakeWatcher
from tests.client.forking import in_child, reap
from tests.client.helpers import LocalDispatcher, Receiver, decide, patient_options, publish, running, wait_until


def test_listeners_of_the_sdk_live_on(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user's notification listener, added once, hears every instance, and of an update only after the swap."""
    publish(directory, 1)
    watcher = make_watcher()
    watcher.start()
    heard: list[Any] = []
    center = watcher.optimizely.notification_center
    center.add_notification_listener(NotificationTypes.DECISION, lambda *args: heard.append(args[0]))
    center.add_notification_listener(NotificationTypes.OPTIMIZELY_CONFIG_UPDATE, lambda: heard.append(watcher.revision))
    publish(directory, 2)
    assert watcher.wait_for_revision(2)
    wait_until(lambda: heard)
    decide(watcher.optimizely)
    assert heard == [2, "flag"]


def test_a_listener_may_ask_the_watcher(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user's update listener may use the watcher, also during start(), without a deadlock."""
    publish(directory, 1)
    center = NotificationCenter()
    revisions: list[int] = []
    watcher = make_watcher(optimizely_options={"notification_center": center})
    center.add_notification_listener(
        NotificationTypes.OPTIMIZELY_CONFIG_UPDATE, lambda: revisions.append(watcher.revision)
    )
    watcher.start()
    assert revisions == [1]


def test_forced_variations_live_on(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user's forced variation still holds after a rebuild."""
    experiment = {
        "id": "x1",
        "key": "trial",
        "status": "Running",
        "layerId": "l",
        "audienceIds": [],
        "forcedVariations": {},
        "variations": [{"id": "a", "key": "A"}, {"id": "b", "key": "B"}],
        "trafficAllocation": [{"entityId": "a", "endOfRange": 10000}],
    }

    def write(revision: int) -> None:
        datafile = json.loads(make_datafile({}, revision=revision)) | {"experiments": [experiment]}
        (directory / ".new").write_text(json.dumps(datafile))
        (directory / ".new").replace(directory / "KEY1.json")

    write(1)
    watcher = make_watcher()
    watcher.start()
    assert watcher.optimizely.get_variation("trial", "user") == "A"
    assert watcher.optimizely.set_forced_variation("trial", "user", "B")
    write(2)
    assert watcher.wait_for_revision(2)
    assert watcher.optimizely.get_forced_variation("trial", "user") == "B"
    assert watcher.optimizely.get_variation("trial", "user") == "B"


def test_every_event_is_sent_once_over_swaps(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user's events are neither lost nor doubled while datafiles are replaced, and stop() sends the rest."""
    publish(directory, 1)
    with Receiver() as receiver:
        watcher = make_watcher(optimizely_options=patient_options(receiver.port))
        watcher.start()

        def track(name: str) -> None:
            for number in range(100):
                watcher.optimizely.track("bought", f"{name}-{number}")
                time.sleep(0.001)

        with running([threading.Thread(target=track, args=(str(thread),)) for thread in range(4)]):
            for revision in range(2, 8):
                publish(directory, revision)
                assert watcher.wait_for_revision(revision)
                watcher.optimizely.close()  # what an app may do to an instance must not hurt the next
        watcher.stop()
        assert set(receiver.users.values()) == {1}
        assert len(receiver.users) == 400


def test_an_event_after_stop_is_dropped_with_a_warning(
    directory: Path, make_watcher: MakeWatcher, caplog: pytest.LogCaptureFixture
) -> None:
    """A user who tracks after stop() reads that the event is lost, and the app goes on."""
    publish(directory, 1)
    with Receiver() as receiver:
        watcher = make_watcher(optimizely_options=patient_options(receiver.port))
        watcher.start()
        watcher.stop()
        watcher.optimizely.track("bought", "late")
        assert "after stop()" in caplog.text
        watcher.start()
        watcher.optimizely.track("bought", "in time")
        watcher.stop()
        assert list(receiver.users) == ["in time"]


class Hanging:
    """A dispatcher that does not come back."""

    def __init__(self) -> None:
        self.released = threading.Event()

    def dispatch_event(self, event: Any) -> None:
        """Hang until released."""
        self.released.wait(30)


@pytest.mark.parametrize("queued", [1, 50])
def test_a_hanging_dispatcher_does_not_block_stop(
    queued: int, directory: Path, make_watcher: MakeWatcher, caplog: pytest.LogCaptureFixture
) -> None:
    """A user's app ends in a bounded time, queue full or not, and reads how many events are lost."""
    publish(directory, 1)
    dispatcher = Hanging()
    watcher = make_watcher(
        optimizely_options={
            "event_dispatcher": dispatcher,
            "event_processor_options": {"timeout_interval": 0.5, "event_queue": queue.Queue(10)},
        }
    )
    watcher.start()
    for number in range(queued):
        watcher.optimizely.track("bought", f"user-{number}")
    started = time.monotonic()
    watcher.stop()
    assert time.monotonic() - started < 4  # 0.5 s and one for the thread; the SDK's default alone is 5 s
    assert "events are lost" in caplog.text
    dispatcher.released.set()


def test_a_slow_dispatcher_is_waited_for(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user whose queue is full at the end, but moving, loses nothing that was taken."""
    publish(directory, 1)
    with Receiver() as receiver:
        receiver.delay_s = 0.05
        waiting: queue.Queue[Any] = queue.Queue(5)
        options = {
            "event_dispatcher": LocalDispatcher(receiver.port),
            "event_processor_options": {"event_queue": waiting, "timeout_interval": 50},
        }
        watcher = make_watcher(optimizely_options=options)
        watcher.start()
        for number in range(12):
            wait_until(lambda: not waiting.full())
            watcher.optimizely.track("bought", f"user-{number}")
        assert waiting.full()
        watcher.stop()
        assert len(receiver.users) == 12


def test_an_event_that_comes_during_stop_is_logged_as_lost(
    directory: Path, make_watcher: MakeWatcher, caplog: pytest.LogCaptureFixture
) -> None:
    """A user whose event is queued just behind the last that is sent reads that it is lost."""
    publish(directory, 1)
    waiting: queue.Queue[Any] = queue.Queue()

    class Late:
        def dispatch_event(self, event: Any) -> None:
            wait_until(lambda: waiting.qsize() == 1)  # the word to end
            waiting.put("what another thread was just about to queue")

    options = {"event_dispatcher": Late(), "event_processor_options": {"event_queue": waiting}}
    watcher = make_watcher(optimizely_options=options)
    watcher.start()
    watcher.optimizely.track("bought", "user")
    watcher.stop()
    assert "Up to 1 events are lost" in caplog.text


def test_the_sdks_defaults_stay(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user who sets nothing gets what the SDK's constructor would have set."""
    datafile = publish(directory, 1)
    watcher = make_watcher()
    watcher.start()
    ours, plain = watcher.optimizely, Optimizely(datafile.decode())
    try:
        for name in ("batch_size", "flush_interval", "timeout_interval", "event_dispatcher"):
            assert getattr(ours.event_processor, name) == getattr(plain.event_processor, name)
        assert isinstance(plain.event_processor, BatchEventProcessor)
        assert ours.cmab_service.cmab_cache.capacity == plain.cmab_service.cmab_cache.capacity
        assert ours.cmab_service.cmab_cache.timeout == plain.cmab_service.cmab_cache.timeout
        assert vars(ours.sdk_settings).keys() == vars(plain.sdk_settings).keys()
        assert ours.odp_manager.enabled is True
        assert set(vars(plain)) - {"cmab_client", "cmab_cache"} <= set(vars(ours))
    finally:
        plain.close()


def test_options_reach_every_instance(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user's own parts are in use before and after a swap."""

    class Profiles(UserProfileService):
        def lookup(self, user_id: str) -> dict[str, Any]:
            return {"user_id": user_id, "experiment_bucket_map": {}}

        def save(self, user_profile: dict[str, Any]) -> None:
            pass

    logger, profiles = logging.getLogger("app.flags"), Profiles()
    publish(directory, 1)
    watcher = make_watcher(
        optimizely_options={
            "logger": logger,
            "user_profile_service": profiles,
            "default_decide_options": ["INCLUDE_REASONS"],
        }
    )
    watcher.start()
    for revision in (1, 2):
        publish(directory, revision)
        assert watcher.wait_for_revision(revision)
        optimizely = watcher.optimizely
        assert optimizely.logger is logger
        assert optimizely.decision_service.logger is logger
        assert optimizely.user_profile_service is profiles
        assert optimizely.decision_service.user_profile_service is profiles
        assert decide(optimizely).reasons


def test_a_child_does_not_send_what_its_parent_has_queued(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user's queued events are sent by the process that made them, although a fork copies the queue."""
    publish(directory, 1)
    with Receiver() as receiver:
        options = {
            "event_dispatcher": LocalDispatcher(receiver.port),
            "event_processor_options": {"batch_size": 50, "flush_interval": 60, "timeout_interval": 50},
        }
        watcher = make_watcher(optimizely_options=options)
        watcher.start()
        watcher.optimizely.track("bought", "parent")
        instance = watcher.optimizely  # a child may also have kept the instance and never ask the watcher
        assert reap([in_child(lambda: instance.track("bought", "child"))]) == [0]
        assert list(receiver.users) == ["child"]
        watcher.stop()
        assert receiver.users == {"child": 1, "parent": 1}


class Processor(BatchEventProcessor):
    """An app's own kind of it."""


@pytest.mark.parametrize("kind", [BatchEventProcessor, Processor])
@pytest.mark.parametrize("is_used_before", [False, True])
def test_an_apps_own_event_processor_works_in_children_and_after_a_restart(
    kind: type[BatchEventProcessor], is_used_before: bool, directory: Path, make_watcher: MakeWatcher
) -> None:
    """A user who brings an event processor loses no event of a child, nor one after stop() and start()."""
    publish(directory, 1)
    with Receiver() as receiver:
        own = kind(LocalDispatcher(receiver.port), start_on_init=True, batch_size=1)
        watcher = make_watcher(optimizely_options={"event_processor": own})
        watcher.start()
        if is_used_before:
            watcher.optimizely.track("bought", "parent")
        assert reap([in_child(lambda: watcher.optimizely.track("bought", "child"))]) == [0]
        watcher.stop()
        watcher.start()
        watcher.optimizely.track("bought", "again")
        watcher.stop()
        assert receiver.users == {"child": 1, "again": 1} | ({"parent": 1} if is_used_before else {})


def test_a_child_has_connections_of_its_own_for_cmab(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user's child that asks for a bandit's decision never reads the answer to its parent's question on a kept connection."""
    publish(directory, 1)
    watcher = make_watcher()
    watcher.start()
    service = watcher.optimizely.cmab_service
    parent = service.cmab_client.http_client
    parent.headers["x-app"] = "shop"

    def work() -> None:
        child = service.cmab_client.http_client
        assert child is not parent
        assert child.get_adapter("http://x") is not parent.get_adapter("http://x")
        assert child.headers["x-app"] == "shop"

    assert reap([in_child(work)]) == [0]
    assert service.cmab_client.http_client is parent


def test_an_own_odp_event_manager_is_revived(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user's subclass with a constructor of its own works in a child, and after a restart, with what it holds."""

    class Mine(OdpEventManager):
        def __init__(self, tenant: str) -> None:
            super().__init__()
            self.tenant = tenant

    data = json.loads(publish(directory, 1))
    data["integrations"] = [{"key": "odp", "host": "http://127.0.0.1:9", "publicKey": "pk"}]
    write_datafile(directory, "KEY1", json.dumps(data))
    watcher = make_watcher(optimizely_options={"settings": OptimizelySdkSettings(odp_event_manager=Mine("shop"))})
    watcher.start()

    def work() -> None:
        assert watcher.user("u").decide("checkout").enabled
        manager = watcher.optimizely.odp_manager.event_manager
        assert isinstance(manager, Mine)
        assert manager.tenant == "shop"
        assert manager.is_running

    work()
    assert reap([in_child(work)]) == [0]
    watcher.stop()
    watcher.start()
    work()
