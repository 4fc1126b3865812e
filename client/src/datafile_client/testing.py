"""Make datafiles for an app's own tests, and write them where a watcher finds them."""

import json
import os
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["make_datafile", "write_datafile"]

_TYPES = {bool: "boolean", int: "integer", float: "double", str: "string"}


def make_datafile(
    flags: Mapping[str, bool | Mapping[str, Any]],
    *,
    revision: int = 1,
    sdk_key: str | None = None,
    events: Iterable[str] = (),
) -> bytes:
    """Make a small datafile for the SDK, with flags that are on or off for every user.

    Args:
        flags: for each flag key True, False, or a mapping such as `{"on": True, "variables": {"text": "hi"}}`. The type of a
            variable follows from its value: str, bool, int or float, and JSON for a list or mapping. A flag that is off has the
            same variables.
        revision: the datafile's revision.
        sdk_key: the SDK key in the datafile. A watcher of any SDK key accepts a datafile without one.
        events: keys of the events that `track` accepts. The SDK sends tracked events to Optimizely, unless the test passes an
            event dispatcher of its own.

    Returns:
        The datafile's bytes.

    Raises:
        ValueError: a flag's value or an event has another form. The message names it.
    """
    events = events if isinstance(events, str) else list(events)
    if isinstance(events, str) or not all(isinstance(key, str) for key in events):
        raise ValueError(f"events must be a list of texts, not {events!r}")
    features = [_feature(number, key, flag) for number, (key, flag) in enumerate(flags.items(), 1)]
    empty = ("attributes", "audiences", "experiments", "groups", "typedAudiences", "variables")
    datafile: dict[str, Any] = {name: [] for name in empty} | {
        "version": "4",
        "revision": str(revision),
        "accountId": "1",
        "projectId": "1",
        "anonymizeIP": True,
        "botFiltering": False,
        "featureFlags": [feature for feature, _ in features],
        "rollouts": [rollout for _, rollout in features],
        "events": [{"id": f"e{number}", "key": key, "experimentIds": []} for number, key in enumerate(events, 1)],
    }
    if sdk_key is not None:
        datafile["sdkKey"] = sdk_key
    return json.dumps(datafile).encode()


def write_datafile(directory: str | os.PathLike[str], sdk_key: str, datafile: bytes | str) -> Path:
    """Write a datafile where a watcher of this SDK key finds it. Like the sidecar, replace the file in one step, by a rename.

    Args:
        directory: the watcher's directory. It is created if it is missing.
        sdk_key: the watcher's SDK key.
        datafile: the result of `make_datafile`, or any other datafile.

    Returns:
        The path of the file.
    """
    path = Path(directory) / f"{sdk_key}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    temporary.write_bytes(datafile.encode() if isinstance(datafile, str) else datafile)
    temporary.chmod(0o644)
    return temporary.replace(path)


def _feature(number: int, key: str, flag: bool | Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    options: Any = {"on": flag} if isinstance(flag, bool) else flag
    if not isinstance(options, Mapping) or options.keys() - {"on", "variables"}:
        raise ValueError(f"flag {key!r} must be True, False, or a mapping with 'on' and 'variables', not {flag!r}")
    on, values = options.get("on", True), options.get("variables", {})
    if not isinstance(on, bool):
        raise ValueError(f"flag {key!r}: 'on' must be True or False, not {on!r}")  # noqa: TRY004
    if not isinstance(values, Mapping) or not all(isinstance(name, str) for name in values):
        raise ValueError(f"flag {key!r}: 'variables' must be a mapping from texts, not {values!r}")
    try:
        variables = [{"id": f"{number}-{name}", "key": name} | _typed(value) for name, value in values.items()]
    except (TypeError, ValueError) as error:
        raise ValueError(f"flag {key!r}: a variable can't be written as JSON: {error}") from error
    rule = {
        "id": f"r{number}",
        "key": f"{key}-everybody",
        "status": "Running",
        "layerId": f"l{number}",
        "audienceIds": [],
        "forcedVariations": {},
        "variations": [{"id": f"v{number}", "key": "on" if on else "off", "featureEnabled": on, "variables": []}],
        "trafficAllocation": [{"entityId": f"v{number}", "endOfRange": 10000}],
    }
    feature = {"id": f"f{number}", "key": key, "rolloutId": f"l{number}", "experimentIds": [], "variables": variables}
    return feature, {"id": f"l{number}", "experiments": [rule]}


def _typed(value: Any) -> dict[str, str]:
    text = value if isinstance(value, str) else json.dumps(value, allow_nan=False)
    kind = {"type": _TYPES[type(value)]} if type(value) in _TYPES else {"type": "string", "subType": "json"}
    return kind | {"defaultValue": text}
