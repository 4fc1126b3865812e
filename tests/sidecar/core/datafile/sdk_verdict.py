"""The real SDK's verdict on a datafile, beside ours, and datafiles to compare them on."""

import functools
import json
import re
from typing import Any

from hypothesis import HealthCheck, settings
from optimizely import version as sdk_version
from optimizely.helpers.sdk_settings import OptimizelySdkSettings
from optimizely.logger import NoOpLogger
from optimizely.optimizely import Optimizely

from datafile_sidecar.core.datafile import InvalidDatafileError, parse
from tests.datafiles import minimal

# Derandomized: the same examples on each run, so that a red build is never a matter of luck.
MANY = settings(max_examples=400, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))

EMPTY: dict[str, Any] = json.loads(minimal(43))
ABSENT = object()

FLAG = {"id": "1", "key": "f", "experimentIds": [], "rolloutId": "", "variables": []}
EXPERIMENT = {
    "id": "e1",
    "key": "e",
    "layerId": "l",
    "status": "Running",
    "variations": [{"id": "v1", "key": "v"}],
    "trafficAllocation": [],
    "audienceIds": [],
    "forcedVariations": {},
}
QUALIFIED_LIST = {"match": "qualified", "name": "odp", "type": "third_party_dimension", "value": ["a"]}
HOLDOUT = {"id": "h", "key": "h", "status": "Running", "variations": [], "trafficAllocation": [], "audienceIds": []}
AUDIENCE = {"id": "a", "name": "A", "conditions": []}


def sdk_takes(body: bytes) -> bool:
    """Whether the real SDK has a config after it was given these bytes; some datafiles make it raise."""
    try:
        instance = Optimizely(
            body,  # type: ignore[arg-type]
            logger=NoOpLogger(),
            settings=OptimizelySdkSettings(odp_disabled=True),
            event_processor_options={"start_on_init": False},
        )
    except Exception:
        return False
    return instance.config_manager.get_config() is not None


def reason_against(body: bytes, sdk_key: str = "KEY1") -> str:
    """Our reason to refuse the body; nothing when it is taken."""
    try:
        parse(body, sdk_key)
    except InvalidDatafileError as error:
        return error.reason
    return ""


def with_change(base: dict[str, Any], change: dict[str, Any]) -> bytes:
    """The datafile with some of its top fields replaced or, if ABSENT, removed."""
    fields = {key: value for key, value in {**base, **change}.items() if value is not ABSENT}
    return json.dumps(fields, ensure_ascii=False).encode()


@functools.cache
def sdk_is_newest() -> bool:
    """Whether the SDK here is one whose treatment of holdouts is the strictest."""
    return tuple(map(int, sdk_version.__version__.split(".")[:2])) >= (5, 6)


def is_about_holdouts_of_older_sdks(reason: str) -> bool:
    """Whether this is refused for the sake of newer SDKs than the one here, which does not look at it."""
    return bool(re.match(r"(localH|h)oldouts\b", reason)) and not sdk_is_newest()


def documented(root: dict[str, Any], reason: str) -> bool:
    """Whether a refusal of what the SDK takes is one of those that docs/decisions/0101 gives reasons for."""
    path, _, fault = reason.partition(": ")
    if path in ("sdkKey", "revision"):
        return True
    if is_about_holdouts_of_older_sdks(path):
        return True
    if fault == "not strict JSON":
        return "NaN" in at(root, path)
    if fault.endswith("not a list of plain values"):
        return path.endswith(("includedFlags", "excludedFlags", "includedRules"))
    if fault.startswith(("expected a list", "expected an object", "expected a string, got")):
        return is_other_container(at(root, path), fault) or has_namesakes(root)
    return has_namesakes(root)


def at(root: Any, path: str) -> Any:
    """The value at a path such as `featureFlags[3].key`."""
    for key, index in re.findall(r"([^.\[\]]+)|\[(\d+)\]", path):
        root = root[key] if key else root[int(index)]
    return root


def is_other_container(value: Any, fault: str) -> bool:
    """Whether this is an empty thing, a text or an object where a list belongs, or pairs where an object does."""
    if fault.startswith("expected a list"):
        return isinstance(value, str | dict) or value in (0, False)
    return isinstance(value, list | dict)


def has_namesakes(value: Any) -> bool:
    """Whether two entries of one list share an id or a key, so that the SDK looks at the last one only."""
    if isinstance(value, dict):
        return any(map(has_namesakes, value.values()))
    if not isinstance(value, list):
        return False
    for name in ("id", "key"):
        keys = [repr(entry[name]) for entry in value if isinstance(entry, dict) and name in entry]
        if len(keys) != len(set(keys)):
            return True
    return any(map(has_namesakes, value))


def check_same_verdict(root: dict[str, Any]) -> None:
    """What we take the SDK takes; what it takes we take, or the refusal is a documented one."""
    body = json.dumps(root).encode()
    reason = reason_against(body)
    taken = sdk_takes(body)
    assert taken or reason, "the SDK has no config"
    assert not taken or not reason or documented(root, reason), f"refused: {reason}"
