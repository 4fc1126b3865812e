"""What lives on when the instance is replaced, and what a rebuild leaves behind: nothing."""

import gc
import json
import logging
import logging.config
import queue
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import pytest
from optimizely.config_manager import BaseConfigManager
from optimizely.event.event_processor import BatchEventProcessor
from optimizely.helpers import validator
from optimizely.helpers.enums import NotificationTypes
from optimizely.notification_center import NotificationCenter
from optimizely.optimizely import Optimizely
from optimizely.user_profile import UserProfileService

from datafile_client._instance import collection_paused
from datafile_client.testing import make_datafile
from tests.client.conftest import MakeWatcher
from tests.client.helpers import LocalDispatcher, Receiver, decide, publish, running, vouch, wait_until

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("count", "odp"),
    [
        ("300", "odp"),
        pytest.param("300", "no", marks=pytest.mark.system),
        pytest.param("1000", "odp", marks=pytest.mark.system),
    ],
)
def test_rebuilds_leave_nothing_behind(count: str, odp: str) -> None:
    """A user's app can run for months: memory, threads and descriptors are flat, and one instance is alive."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.client.flat", count, "230000", odp],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    before, after = figures["before"], figures["after"]
    assert after["rss_kib"] - before["rss_kib"] < 8 * 1024
    assert (after["threads"], after["descriptors"], after["live"]) == (before["threads"], before["descriptors"], 1)


def test_an_old_instance_goes_with_its_last_reference(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user's memory is free as soon as the last request lets go, without waiting for the garbage collector."""
    publish(directory, 1)
    watcher = make_watcher()
    watcher.start()
    old = weakref.ref(watcher.optimizely)
    gc.disable()
    try:
        publish(directory, 2)
        assert watcher.wait_for_revision(2)
        decide(watcher.optimizely)
        wait_until(lambda: old() is None, 1)
    finally:
        gc.enable()


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
        watcher = make_watcher(optimizely_options={"event_dispatcher": LocalDispatcher(receiver.port)})
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


def test_an_event_after_stop_is_dropped_with_a_word(
    directory: Path, make_watcher: MakeWatcher, caplog: pytest.LogCaptureFixture
) -> None:
    """A user who tracks after stop() reads that the event is lost, and the app goes on."""
    publish(directory, 1)
    with Receiver() as receiver:
        watcher = make_watcher(optimizely_options={"event_dispatcher": LocalDispatcher(receiver.port)})
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
def test_a_hanging_dispatcher_holds_nobody(
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
    assert time.monotonic() - started < 2
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
            "event_processor_options": {"event_queue": waiting},
        }
        watcher = make_watcher(optimizely_options=options)
        watcher.start()
        for number in range(12):
            wait_until(lambda: not waiting.full())
            watcher.optimizely.track("bought", f"user-{number}")
        assert waiting.full()
        watcher.stop()
        assert len(receiver.users) == 12


def test_an_event_that_comes_amid_the_end_is_told_of(
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


def test_an_apps_logging_config_brings_no_lines_about_odp(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user whose logging is configured after the import, as Django does, is not told at each swap that ODP is disabled."""
    publish(directory, 1)
    watcher = make_watcher()
    watcher.start()
    lines: list[str] = []
    root = logging.getLogger()
    kept = root.level, root.handlers[:]
    logging.config.dictConfig({"version": 1, "disable_existing_loggers": False, "root": {"level": "DEBUG"}})
    root.addHandler(collector := logging.Handler())
    collector.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    try:
        publish(directory, 2)
        assert watcher.wait_for_revision(2)
    finally:
        root.setLevel(kept[0])
        root.handlers[:] = kept[1]
    assert [line for line in lines if "Deciding by revision 2" in line]
    assert not [line for line in lines if "ODP" in line]


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


def test_the_schema_check_is_left_to_the_sidecar_that_vouches(
    directory: Path, make_watcher: MakeWatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user pays for the schema check only where nobody has made it."""
    checks: list[bytes] = []
    check = validator.is_datafile_valid

    def counted(data: bytes) -> bool:
        checks.append(data)
        return check(data)

    monkeypatch.setattr(validator, "is_datafile_valid", counted)
    watcher = make_watcher()
    datafile = make_datafile({}, revision=1)
    vouch(directory, "KEY1", datafile)
    (directory / "KEY1.json").write_bytes(datafile)
    watcher.start()
    assert not checks
    publish(directory, 2)
    assert watcher.wait_for_revision(2)
    assert len(checks) == 1


def test_the_optimizely_config_is_built_when_asked_for(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user who asks for the OptimizelyConfig gets the right one, once built; who does not ask does not pay."""
    datafile = publish(directory, 1)
    watcher = make_watcher()
    watcher.start()
    manager = watcher.optimizely.config_manager
    assert isinstance(manager, BaseConfigManager)
    assert "optimizely_config" not in vars(manager)
    ours = watcher.optimizely.get_optimizely_config()
    assert ours is watcher.optimizely.get_optimizely_config()
    plain = Optimizely(datafile.decode())
    expected = plain.get_optimizely_config()
    plain.close()
    assert ours is not None
    assert expected is not None
    assert ours.get_datafile() == expected.get_datafile()
    assert ours.features_map.keys() == expected.features_map.keys()


def test_collection_is_paused_for_one_build_and_on_again() -> None:
    """A user's garbage collector runs again whatever happened in the build, and stays off where the app wants it off."""
    with collection_paused():
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(KeyboardInterrupt), collection_paused():
        raise KeyboardInterrupt
    assert gc.isenabled()
    gc.disable()
    try:
        with collection_paused():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_no_poller_is_started(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user's workers never ask Optimizely's CDN themselves (trap 46)."""
    publish(directory, 1)
    make_watcher().start()
    assert "PollThread" not in {thread.name for thread in threading.enumerate()}
