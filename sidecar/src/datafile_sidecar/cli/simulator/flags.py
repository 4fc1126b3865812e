"""Switch a flag in a datafile on or off, as somebody does in Optimizely's interface."""

import copy
from collections.abc import Iterator
from typing import Any


class FlagError(ValueError):
    """The datafile has no such flag, or none that can be switched. The text says which flags there are."""


def switched(datafile: dict[str, Any], flag: str, *, on: bool) -> dict[str, Any]:
    """Return a copy of a valid datafile in which a flag is on, or off, for everyone that one of its rules applies to.

    Raises:
        FlagError: there is no such flag, or it has no rule.
    """
    changed = copy.deepcopy(datafile)
    features = {feature["key"]: feature for feature in changed.get("featureFlags", ())}
    if flag not in features:
        raise FlagError(
            f"there is no flag {flag[:60]!r}; this datafile has {', '.join(sorted(features)) or 'no flags'}"
        )
    variations = list(_variations(changed, features[flag]))
    if not variations:
        raise FlagError(f"flag {flag!r} has no rule that could be switched")
    for variation in variations:
        variation["featureEnabled"] = on
    return changed


def _variations(datafile: dict[str, Any], feature: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for rollout in datafile.get("rollouts", ()):
        if rollout["id"] == feature.get("rolloutId"):
            for rule in rollout["experiments"]:
                yield from rule["variations"]
    groups = (experiment for group in datafile["groups"] for experiment in group["experiments"])
    for experiment in (*datafile["experiments"], *groups):
        if experiment["id"] in feature.get("experimentIds", ()):
            yield from experiment["variations"]
