"""Checks the watcher's arguments and the options for the SDK's constructor, before anything starts.

Given a wrong option, the SDK itself returns an unusable instance and logs a line. Given a wrong number, it uses its default.
"""

import queue
import re
import threading
from collections.abc import Callable, Mapping
from typing import Any

from optimizely.decision.optimizely_decide_option import OptimizelyDecideOption
from optimizely.helpers import validator
from optimizely.helpers.sdk_settings import OptimizelySdkSettings

from datafile_client.errors import InvalidOptionError

_RESERVED = {
    "datafile": "the watcher reads it from the directory",
    "sdk_key": "it would make every process poll the CDN; give it to the watcher instead",
    "config_manager": "the watcher brings its own",
    "datafile_access_token": "the sidecar fetches the datafile",
    "start_on_init": "it is started at its first event",
}
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
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= threading.TIMEOUT_MAX


_PROCESSOR_CHECKS: _Checks = {
    "batch_size": (lambda value: _is_seconds(value) and isinstance(value, int), "it must be a positive whole number"),
    "event_queue": (lambda value: isinstance(value, queue.Queue), "it must be a queue.Queue"),
    "flush_interval": (_is_seconds, "it must be a positive number of seconds, at most 9e9"),
    "timeout_interval": (_is_seconds, "it must be a positive number of seconds, at most 9e9"),
}


def check_options(options: Mapping[str, Any]) -> None:
    """Check the options for the SDK's constructor.

    Raises:
        InvalidOptionError: one is wrong. The error names the first such option and says why.
    """
    _check("optimizely_options", options, _CHECKS)
    settings = {name: getattr(options.get("settings"), name, None) for name in _SETTINGS_CHECKS}
    _check("settings", settings, _SETTINGS_CHECKS)
    _check("event_processor_options", options.get("event_processor_options") or {}, _PROCESSOR_CHECKS)


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
    text = environment.get(option, "") if argument is None else argument
    keys = list(dict.fromkeys(key.strip() for key in text.split(",") if key.strip()))
    if len(keys) != 1:
        reason = f"names several, choose one by sdk_key=: {', '.join(keys)}" if keys else "names no SDK key"
        raise InvalidOptionError(option, reason)
    if not re.fullmatch("[A-Za-z0-9_-]+", keys[0]):
        raise InvalidOptionError(option, f"{keys[0]!r} is not an SDK key (letters, digits, '-' and '_')")
    return keys[0]


def check_seconds(option: str, value: float | None) -> float | None:
    """Return the value if it is None or a number of seconds above 0.

    Raises:
        InvalidOptionError: it is neither.
    """
    if value is not None and not _is_seconds(value):
        raise InvalidOptionError(option, f"must be a positive number of seconds, at most 9e9, not {value!r}")
    return value
