"""Checks the watcher's arguments and the options for the SDK's constructor, before anything starts.

Given a wrong option, the SDK itself returns an unusable instance and logs a line. Given a wrong number, it uses its default.
"""

import queue
import re
import threading
from collections.abc import Callable, Mapping
from typing import Any, TypedDict

from optimizely.decision.optimizely_decide_option import OptimizelyDecideOption
from optimizely.helpers import validator
from optimizely.helpers.sdk_settings import OptimizelySdkSettings
from optimizely.notification_center import NotificationCenter

from datafile_client.errors import InvalidOptionError


class EventProcessorOptions(TypedDict, total=False):
    """Keyword arguments of the SDK's `BatchEventProcessor`. Times are in seconds."""

    batch_size: int
    event_queue: "queue.Queue[Any]"
    flush_interval: float
    start_on_init: bool
    timeout_interval: float


class OptimizelyOptions(TypedDict, total=False):
    """Keyword arguments of the SDK's constructor that a watcher takes. They mean what the SDK's documentation says."""

    cmab_service: Any
    default_decide_options: list[str]
    error_handler: Any
    event_dispatcher: Any
    event_processor: Any
    event_processor_options: EventProcessorOptions
    logger: Any
    notification_center: NotificationCenter
    settings: OptimizelySdkSettings
    skip_json_validation: bool
    user_profile_service: Any


_RESERVED = {
    "datafile": "the watcher reads it from the directory",
    "sdk_key": "it would make every process poll the CDN; give it to the watcher instead",
    "config_manager": "the watcher brings its own",
    "datafile_access_token": "the sidecar fetches the datafile",
}
_NO_KEY = (
    "names no SDK key; where there is none, as in an app's tests, set it to any text, such as `test`; in Kubernetes the "
    "sidecar's injection sets it: is the label datafile-sidecar/inject missing?"
)
_Checks = dict[str, tuple[Callable[[Any], bool], str]]
_DECIDE_OPTIONS = [value for name, value in vars(OptimizelyDecideOption).items() if name.isupper()]


def _has(*methods: str) -> Callable[[Any], bool]:
    return lambda value: all(callable(getattr(value, method, None)) for method in methods)


_CHECKS: _Checks = {
    "cmab_service": (_has("get_decision"), "it needs a method get_decision"),
    "default_decide_options": (
        lambda value: isinstance(value, list) and all(option in _DECIDE_OPTIONS for option in value),
        "it must be a list of the SDK's OptimizelyDecideOption",
    ),
    "error_handler": (_has("handle_error"), "it needs a method handle_error"),
    "event_dispatcher": (_has("dispatch_event"), "it needs a method dispatch_event"),
    "event_processor": (_has("process"), "it needs a method process"),
    "event_processor_options": (lambda value: isinstance(value, Mapping), "it must be a mapping"),
    "logger": (_has("log"), "it needs a method log"),
    "notification_center": (validator.is_notification_center_valid, "it must be a NotificationCenter of the SDK"),
    "settings": (lambda value: isinstance(value, OptimizelySdkSettings), "it must be OptimizelySdkSettings of the SDK"),
    "skip_json_validation": (lambda value: isinstance(value, bool), "it must be True or False"),
    "user_profile_service": (_has("lookup", "save"), "it needs the methods lookup and save"),
}
_SETTINGS_CHECKS: _Checks = {
    "odp_event_manager": (validator.is_event_manager_valid, "it must be an OdpEventManager of the SDK"),
    "odp_segment_manager": (validator.is_segment_manager_valid, "it must be an OdpSegmentManager of the SDK"),
    "segments_cache": (_has("reset", "lookup", "save"), "it needs the methods reset, lookup and save"),
}


def _is_seconds(value: Any) -> bool:
    return _is_number(value) and 0 < value <= threading.TIMEOUT_MAX


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


_PROCESSOR_CHECKS: _Checks = {
    "start_on_init": (lambda value: isinstance(value, bool), "it must be True or False"),
    "batch_size": (lambda value: _is_seconds(value) and isinstance(value, int), "it must be a positive whole number"),
    "event_queue": (lambda value: isinstance(value, queue.Queue), "it must be a queue.Queue"),
    "flush_interval": (_is_seconds, "it must be a positive number of seconds, at most 9e9"),
    "timeout_interval": (_is_seconds, "it must be a positive number of seconds, at most 9e9"),
}


def checked_options(options: Any) -> dict[str, Any]:
    """Check the options for the SDK's constructor, and return a copy.

    Raises:
        InvalidOptionError: one is wrong. The error names the first such option and says why.
    """
    if not isinstance(options, Mapping | None):
        raise InvalidOptionError("optimizely_options", f"must be a mapping, not {options!r}")
    chosen: dict[str, Any] = dict(options or {})
    _check("optimizely_options", chosen, _CHECKS)
    settings = {name: getattr(chosen.get("settings"), name, None) for name in _SETTINGS_CHECKS}
    _check("settings", settings, _SETTINGS_CHECKS)
    _check("event_processor_options", chosen.get("event_processor_options") or {}, _PROCESSOR_CHECKS)
    return chosen


def check_path(option: str, value: Any) -> str:
    """Return a path as text, empty for None.

    Raises:
        InvalidOptionError: it is neither.
    """
    path = value if value is None or isinstance(value, str) else getattr(value, "__fspath__", lambda: b"")()
    if not isinstance(path, str | None):
        raise InvalidOptionError(option, f"must be a path as text, not {value!r}")
    return path or ""


def _check(argument: str, values: Mapping[str, Any], checks: _Checks) -> None:
    for name, value in values.items():
        if name not in checks:
            reason = _RESERVED.get(name, f"there is no such option; there are {', '.join(sorted(checks))}")
            raise InvalidOptionError(f"{argument}[{name!r}]", reason)
        is_valid, requirement = checks[name]
        if value is not None and not is_valid(value):
            raise InvalidOptionError(f"{argument}[{name!r}]", f"{requirement}, not {value!r}")


def choose_sdk_key(argument: str | None, environment: Mapping[str, str]) -> str:
    """Return the SDK key of the argument, or else the only one in DATAFILE_SDK_KEYS.

    Raises:
        InvalidOptionError: there is no key, there are several, or it is not an SDK key.
    """
    option = "DATAFILE_SDK_KEYS" if argument is None else "sdk_key"
    if not isinstance(argument, str | None):
        raise InvalidOptionError(option, f"must be a text, not {argument!r}")
    text = environment.get(option, "") if argument is None else argument
    keys = list(dict.fromkeys(key.strip() for key in text.split(",") if key.strip()))
    if len(keys) != 1:
        reason = f"names several, choose one by sdk_key=: {', '.join(keys)}" if keys else _NO_KEY
        raise InvalidOptionError(option, reason)
    if not re.fullmatch("[A-Za-z0-9_-]+", keys[0]):
        raise InvalidOptionError(option, f"{keys[0]!r} is not an SDK key (letters, digits, '-' and '_')")
    return keys[0]


def check_seconds(option: str, value: Any, least: float | None = None) -> float:
    """Return a number of seconds.

    Args:
        option: its name.
        value: the number.
        least: the lowest that is allowed; None for any above 0.

    Raises:
        InvalidOptionError: it is no such number.
    """
    is_right = _is_number(value) and (value > 0 if least is None else value >= least) and value <= threading.TIMEOUT_MAX
    if not is_right:
        wanted = "a positive number of seconds" if least is None else f"a number of seconds, at least {least:g}"
        raise InvalidOptionError(option, f"must be {wanted} and at most 9e9, not {value!r}")
    return float(value)
