"""Makes datafiles for an app's own tests, and writes them where a watcher finds them."""

import json
import os
import secrets
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from datafile_client.testing._flag_parts import FlagParts, attributes_of
from datafile_client.testing._rules import rules_of


def make_datafile(
    flags: Mapping[str, bool | Mapping[str, Any] | Sequence[Mapping[str, Any]]],
    *,
    revision: int = 1,
    sdk_key: str | None = None,
    events: Iterable[str] = (),
) -> bytes:
    """Make a small datafile for the SDK.

    A flag is True or False for everybody, or it is one rule or a list of rules. The keys of a rule, all of them optional:

    - "on": whether the flag is on, True if not given.
    - "variables": values such as `{"text": "hi"}`. The type of a variable follows from its value: str, bool, int or float, and
      JSON for a list or mapping. Where a rule turns the flag off, the values are the variables' defaults.
    - "variation": the key of the variation; "on" or "off" if not given.
    - "percentage": the share of the people that gets it, 100 if not given. Several rules for the same people are a split.
    - "audience": for users with these attributes only, such as `{"country": "de"}`, or a list of Optimizely's conditions.
    - "user": for the user with this id only.

    As the SDK does, rules for users come first, then splits, then other audiences in their order, and those for everybody last.
    Who is left is off, and gets empty values of the variables' types, unless a rule sets their defaults.

    Args:
        flags: the flags by their keys.
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
    made = [FlagParts(number, key, rules_of(key, flag)) for number, (key, flag) in enumerate(flags.items(), 1)]
    audiences = [audience for one in made for audience in one.audiences]
    names = dict.fromkeys(name for audience in audiences for name in attributes_of(audience["conditions"]))
    datafile: dict[str, Any] = {name: [] for name in ("audiences", "groups", "variables")} | {
        "version": "4",
        "revision": str(revision),
        "accountId": "1",
        "projectId": "1",
        "anonymizeIP": True,
        "botFiltering": False,
        "attributes": [{"id": f"a{number}", "key": name} for number, name in enumerate(names, 1)],
        "typedAudiences": audiences,
        "experiments": [experiment for one in made for experiment in one.experiments],
        "featureFlags": [one.feature for one in made],
        "rollouts": [one.rollout for one in made],
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
