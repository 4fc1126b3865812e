"""Wrong arguments, options and settings are refused at once, with a reason."""

import asyncio
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optimizely.helpers.sdk_settings import OptimizelySdkSettings

from datafile_client import DatafileClientError, DatafileUnavailableError, InvalidOptionError, OptimizelyWatcher
from tests.client.conftest import MakeWatcher
from tests.client.helpers import publish


def _settings(**attributes: Any) -> OptimizelySdkSettings:
    settings = OptimizelySdkSettings()
    vars(settings).update(attributes)
    return settings


WRONG = [
    ({"datafile": "{}"}, "datafile.*reads it from the directory"),
    ({"sdk_key": "KEY1"}, "sdk_key.*poll the CDN"),
    ({"config_manager": object()}, "config_manager.*brings its own"),
    ({"datafile_access_token": "t"}, "datafile_access_token.*sidecar fetches"),
    ({"event_dispatchr": None}, "event_dispatchr.*there are cmab_service.*event_dispatcher"),
    ({"event_dispatcher": object()}, "dispatch_event"),
    ({"logger": object()}, "a method log"),
    ({"error_handler": object()}, "handle_error"),
    ({"notification_center": object()}, "NotificationCenter"),
    ({"event_processor": object()}, "a method process"),
    ({"user_profile_service": object()}, "lookup and save"),
    ({"cmab_service": object()}, "get_decision"),
    ({"default_decide_options": "INCLUDE_REASONS"}, "must be a list"),
    ({"default_decide_options": ["INCLUDE_REASON"]}, "OptimizelyDecideOption"),
    ({"default_decide_options": [["INCLUDE_REASONS"]]}, "OptimizelyDecideOption"),
    ({"skip_json_validation": "yes"}, "True or False"),
    ({"settings": {"odp_disabled": True}}, "OptimizelySdkSettings"),
    ({"settings": _settings(segments_cache=object())}, "reset, lookup and save"),
    ({"settings": _settings(odp_event_manager=object())}, "OdpEventManager"),
    ({"settings": _settings(odp_segment_manager=object())}, "OdpSegmentManager"),
    ({"event_processor_options": 5}, "a mapping"),
    ({"event_processor_options": {"batchsize": 5}}, "batchsize.*there are batch_size"),
    ({"event_processor_options": {"start_on_init": 1}}, "start_on_init.*True or False"),
    ({"event_processor_options": {"batch_size": 0}}, "batch_size.*positive whole number, not 0"),
    ({"event_processor_options": {"batch_size": 1.5}}, "batch_size"),
    ({"event_processor_options": {"flush_interval": "30"}}, "flush_interval"),
    ({"event_processor_options": {"timeout_interval": float("inf")}}, "timeout_interval"),
    ({"event_processor_options": {"flush_interval": 1e10}}, "flush_interval"),
    ({"event_processor_options": {"event_queue": multiprocessing.Queue()}}, "event_queue.*Queue"),
    ({"event_processor_options": {"event_queue": []}}, "event_queue.*Queue"),
]


@pytest.mark.parametrize(("options", "reason"), WRONG)
def test_a_wrong_option_is_refused_by_the_constructor(
    options: dict[str, Any], reason: str, make_watcher: MakeWatcher
) -> None:
    """A user with a wrong option reads which and why before anything has started, not in a dead instance's log."""
    with pytest.raises(InvalidOptionError, match=reason) as caught:
        make_watcher(optimizely_options=options)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, DatafileClientError)


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        ({"sdk_key": 123}, "sdk_key: must be a text"),
        ({"directory": 5}, "directory: must be a path as text"),
        ({"directory": b"x"}, "directory"),
        ({"fallback": 5}, "fallback"),
        ({"optimizely_options": [1]}, "optimizely_options: must be a mapping"),
        ({"optimizely_options": {1: 2}}, r"optimizely_options\[1\]"),
        ({"rescan_interval_s": "1"}, "rescan_interval_s"),
        ({"rescan_interval_s": 0.0004}, "rescan_interval_s: must be a number of seconds, at least 0.01"),
        ({"start_timeout_s": None}, "start_timeout_s"),
        ({"start_timeout_s": True}, "start_timeout_s"),
    ],
)
def test_an_argument_of_another_type_is_refused(
    arguments: dict[str, Any], option: str, make_watcher: MakeWatcher
) -> None:
    """A user who mixes up arguments reads which, and not an AttributeError from inside."""
    with pytest.raises(InvalidOptionError, match=option):
        make_watcher(**arguments)


@pytest.mark.parametrize("timeout", ["1", -1, float("nan"), float("inf"), [], True])
def test_a_wrong_timeout_is_refused(timeout: Any, directory: Path, make_watcher: MakeWatcher) -> None:
    """A user's slip does not wait for ever, nor for nothing."""
    publish(directory, 1)
    watcher = make_watcher()
    with pytest.raises(InvalidOptionError, match="timeout"):
        watcher.start(timeout=timeout)
    watcher.start()
    wrongs: list[Any] = [timeout, None]
    for wrong in wrongs:
        with pytest.raises(InvalidOptionError, match="timeout"):
            watcher.wait_for_revision(2, timeout=wrong)


def test_the_start_timeout_holds_for_every_way_to_start(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user says once how long an app may wait for its first datafile."""
    watcher = make_watcher(start_timeout_s=0.2)

    async def enter() -> None:
        async with watcher:
            raise AssertionError("there is no datafile")

    def enter_with() -> None:
        with watcher:
            raise AssertionError("there is no datafile")

    ways: list[Callable[[], None]] = [
        watcher.start,
        lambda: watcher.start(None),
        enter_with,
        lambda: asyncio.run(enter()),
    ]
    for way in ways:
        began = time.monotonic()
        with pytest.raises(DatafileUnavailableError, match=r"within 0\.2 s"):
            way()
        assert time.monotonic() - began < 10


def test_what_the_sdks_processor_takes_is_taken(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user may keep the options of the SDK's event processor as they are."""
    publish(directory, 1)
    watcher = make_watcher(optimizely_options={"event_processor_options": {"start_on_init": True, "batch_size": 5}})
    watcher.start()
    assert getattr(watcher.optimizely.event_processor, "batch_size", None) == 5


def test_a_missing_sdk_key_says_what_to_do_in_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user whose app makes a watcher at import reads how the app's own tests can import it."""
    monkeypatch.delenv("DATAFILE_SDK_KEYS", raising=False)
    with pytest.raises(InvalidOptionError, match="in an app's tests, set it to any text"):
        OptimizelyWatcher()


def test_none_means_the_sdks_default(make_watcher: MakeWatcher) -> None:
    """A user may pass None for an option, as to the SDK."""
    make_watcher(optimizely_options={"logger": None, "settings": None, "event_processor_options": None})


def test_the_settings_come_from_the_environment(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user in a pod passes no argument at all."""
    publish(directory, 1)
    monkeypatch.setenv("DATAFILE_SDK_KEYS", " KEY1,KEY1 \n")
    monkeypatch.setenv("DATAFILE_DIR", str(directory))
    with OptimizelyWatcher() as watcher:
        assert watcher.revision == 1


@pytest.mark.parametrize("keys", ["", "  ", "KEY1,KEY2", "../../etc", "KEY 1", "KEY1?x="])
def test_a_wrong_sdk_key_is_refused_at_once(keys: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user with no, several or impossible SDK keys reads which setting to fix."""
    monkeypatch.setenv("DATAFILE_SDK_KEYS", keys)
    with pytest.raises(InvalidOptionError, match="DATAFILE_SDK_KEYS"):
        OptimizelyWatcher()
    with pytest.raises(InvalidOptionError, match="sdk_key"):
        OptimizelyWatcher(sdk_key=keys)


@pytest.mark.parametrize("option", ["stale_after_s", "rescan_interval_s"])
@pytest.mark.parametrize("value", [0, -1, float("inf"), float("nan")])
def test_a_wrong_time_is_refused_at_once(option: str, value: float, make_watcher: MakeWatcher) -> None:
    """A user cannot set an interval that would spin or never end."""
    with pytest.raises(InvalidOptionError, match=option):
        make_watcher(**{option: value})
