"""A datafile of a wanted size with what real ones hold: flags with variables, experiments, rollouts and audiences."""

import json
from typing import Any


def realistic(size: int, revision: int = 1) -> bytes:
    """Make a datafile of about `size` bytes."""
    one = len(json.dumps(_datafile(2, revision))) - len(json.dumps(_datafile(1, revision)))
    return json.dumps(_datafile(max(1, size // one), revision)).encode()


def _datafile(flags: int, revision: int) -> dict[str, Any]:
    numbers = range(flags)
    return {
        "version": "4",
        "revision": str(revision),
        "accountId": "1",
        "projectId": "1",
        "anonymizeIP": True,
        "botFiltering": False,
        "sendFlagDecisions": True,
        "attributes": [{"id": f"a{number}", "key": f"attribute-{number}"} for number in range(10)],
        "audiences": [],
        "events": [{"id": "e", "key": "bought", "experimentIds": [f"x{number}" for number in numbers]}],
        "experiments": [_rule(f"x{number}", number) for number in numbers],
        "featureFlags": [_flag(number) for number in numbers],
        "groups": [],
        "rollouts": [
            {"id": f"l{number}", "experiments": [_rule(f"r{number}-{rule}", number) for rule in range(2)]}
            for number in numbers
        ],
        "typedAudiences": [_audience(number) for number in numbers],
        "variables": [],
    }


def _flag(number: int) -> dict[str, Any]:
    variables = [
        {"id": f"{number}-{name}", "key": f"variable-{name}", "type": "string", "defaultValue": f"value {name} " * 3}
        for name in range(6)
    ]
    flag = {"id": f"f{number}", "key": f"flag-{number}", "rolloutId": f"l{number}", "experimentIds": [f"x{number}"]}
    return flag | {"variables": variables}


def _rule(name: str, number: int) -> dict[str, Any]:
    return {
        "id": name,
        "key": f"rule-{name}",
        "status": "Running",
        "layerId": f"layer-{name}",
        "audienceIds": [f"u{number}"],
        "audienceConditions": ["or", f"u{number}"],
        "forcedVariations": {},
        "variations": [
            {
                "id": f"{name}-{side}",
                "key": f"variation-{side}",
                "featureEnabled": side == "on",
                "variables": [{"id": f"{number}-{variable}", "value": f"other {variable}"} for variable in range(6)],
            }
            for side in ("on", "off")
        ],
        "trafficAllocation": [
            {"entityId": f"{name}-on", "endOfRange": 5000},
            {"entityId": f"{name}-off", "endOfRange": 10000},
        ],
    }


def _audience(number: int) -> dict[str, Any]:
    is_not = {"match": "exact", "name": f"attribute-{number % 10}", "type": "custom_attribute", "value": "nobody"}
    return {"id": f"u{number}", "name": f"audience {number}", "conditions": ["and", ["or", ["not", ["or", is_not]]]]}
