"""Datafiles for tests, of any size, written by us: no customer's and no vendor's data.

`realistic` has what the datafiles of a living project have: flags with variables of every type, experiments alone and
in groups, delivery rules with targeting, typed and old-style audiences, nested conditions, events, attributes, an
integration and holdouts. Equal arguments give equal bytes.
"""

import json
from typing import Any

Json = dict[str, Any]

_MATCHES = (("exact", "gold"), ("substring", "beta"), ("gt", 18), ("exists", None), ("semver_ge", "2.1.0"))
_VARIABLES = (
    ("string", "Añade al carrito, [rápido]", None),
    ("integer", "10", None),
    ("double", "0.25", None),
    ("boolean", "true", None),
    ("string", '{"colour": "red", "sizes": [1, 2, 3]}', "json"),
)


def minimal(revision: int, sdk_key: str = "KEY1") -> bytes:
    """The smallest datafile that the SDK takes: no flags."""
    return _bytes(_frame(revision, sdk_key))


def realistic(size_kib: int, revision: int, sdk_key: str = "KEY1") -> bytes:
    """A datafile of at least `size_kib` KiB, at most one flag (about 6 KiB) larger."""
    datafile = _frame(revision, sdk_key)
    _add_project_parts(datafile)
    size = len(_bytes(datafile))
    number = 0
    while number == 0 or size < size_kib * 1024:
        before = _add_flag(datafile, number)
        size += sum(len(_bytes(part)) + 1 for part in before)
        number += 1
    return _bytes(datafile)


def hostile(kind: str, size: int) -> bytes:
    """A body of at most `size` bytes, hardly less: a datafile in which one field is stuffed. `kind` is in HOSTILE."""
    before, filling, after = HOSTILE[kind]
    frame = _frame(43, "KEY1")
    frame.pop(before.split(b'"')[1].decode(), None)
    rest = b"," + _bytes(frame)[1:]
    free = size - len(before) - len(after) - len(rest) - 1
    return b"{" + before + filling * (free // len(filling)) + after + rest


_OLD_AUDIENCE = b'"audiences":[{"id":"1","name":"a","conditions":'
_TYPED_AUDIENCE = b'"typedAudiences":[{"id":"1","name":"a","conditions":'

HOSTILE: dict[str, tuple[bytes, bytes, bytes]] = {
    "empty lists": (b'"featureFlags":[', b"[],", b"[]]"),
    "empty objects": (b'"experiments":[', b"{},", b"{}]"),
    "empty objects in an unknown field": (b'"x":[', b"{},", b"{}]"),
    "small objects": (b'"x":[', b'{"a":1},', b"{}]"),
    "short strings": (b'"events":[{"id":"1","key":"a","experimentIds":[', b'"ab",', b'"ab"]}]'),
    "lists in conditions": (_TYPED_AUDIENCE + b"[", b"[],", b"[]]}]"),
    "lists in the text of conditions": (_OLD_AUDIENCE + b'"[{},', b"[],", b'[]]"}]'),
    "deep lists": (b'"x":', b"[", b"1"),
    "deep objects": (b'"x":', b'{"a":', b"1"),
    "strings of brackets": (b'"x":[', b'"[",[],', b"0]"),
    "backslashes": (b'"x":"', b"\\\\", b'"'),
    "escaped quotes": (b'"x":"', b'\\"', b'"'),
    "a long number": (b'"x":', b"9", b""),
    "quotes": (b'"x":', b'"', b""),
}


def _bytes(value: Json) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def _frame(revision: int, sdk_key: str) -> Json:
    return {
        "version": "4",
        "revision": str(revision),
        "sdkKey": sdk_key,
        "environmentKey": "production",
        "projectId": "1234",
        "accountId": "222",
        "region": "US",
        "anonymizeIP": True,
        "botFiltering": False,
        "sendFlagDecisions": True,
        "variables": [],
        "groups": [],
        "experiments": [],
        "featureFlags": [],
        "rollouts": [],
        "audiences": [],
        "typedAudiences": [],
        "attributes": [],
        "events": [],
        "integrations": [],
        "holdouts": [],
    }


def _add_project_parts(datafile: Json) -> None:
    datafile["attributes"] = [{"id": f"att-{name}", "key": name} for name in ("plan", "age", "app_version", "country")]
    datafile["integrations"] = [{"key": "odp", "host": "https://odp.example.com", "publicKey": "not-a-key"}]
    datafile["events"] = [{"id": "ev-1", "key": "purchase", "experimentIds": ["exp-0"]}]
    old = '["or", {"match": "exact", "name": "plan", "type": "custom_attribute", "value": "gold"}]'
    datafile["audiences"] = [
        {"id": "$opt_dummy_audience", "name": "nobody", "conditions": old},
        {"id": "aud-old", "name": 'Old style "gold"', "conditions": old},
    ]
    datafile["holdouts"] = [
        {
            "id": "hold-1",
            "key": "global_holdout",
            "status": "Running",
            "audienceIds": [],
            "variations": [{"id": "hold-1-v", "key": "off", "featureEnabled": False}],
            "trafficAllocation": [{"entityId": "hold-1-v", "endOfRange": 500}],
            "includedFlags": [],
            "excludedFlags": ["flag-1"],
        }
    ]
    datafile["localHoldouts"] = [
        {**datafile["holdouts"][0], "id": "hold-2", "key": "local_holdout", "includedRules": ["exp-0", "rule-0-0"]}
    ]


def _add_flag(datafile: Json, number: int) -> list[Json]:
    """Add a flag with all that belongs to it; return the parts that were added."""
    audience = _audience(number)
    variables = _variables(number)
    experiment = _experiment(f"exp-{number}", number, variables)
    rollout = {"id": f"rollout-{number}", "experiments": [_rule(number, rule) for rule in range(3)]}
    flag = {
        "id": f"flag-{number}",
        "key": f"feature_{number}",
        "rolloutId": rollout["id"],
        "experimentIds": [experiment["id"]],
        "variables": variables,
    }
    datafile["typedAudiences"].append(audience)
    datafile["rollouts"].append(rollout)
    datafile["featureFlags"].append(flag)
    if number % 4 == 3:
        added = _group(number, experiment)
        datafile["groups"].append(added)
    else:
        added = experiment
        datafile["experiments"].append(added)
    return [audience, rollout, flag, added]


def _audience(number: int) -> Json:
    leaves = [
        {"type": "custom_attribute", "name": f"attribute_{index}", "match": match, "value": value}
        for index, (match, value) in enumerate(_MATCHES)
    ]
    segment = {"type": "third_party_dimension", "name": "odp.audiences", "match": "qualified", "value": f"seg-{number}"}
    conditions = ["and", ["or", ["or", *leaves[:3]], ["not", ["or", leaves[3]]]], ["or", leaves[4], segment]]
    return {"id": f"aud-{number}", "name": f"Audience {number}", "conditions": conditions}


def _variables(number: int) -> list[Json]:
    return [
        {"id": f"var-{number}-{index}", "key": f"variable_{index}", "type": kind, "defaultValue": default}
        | ({"subType": sub} if sub else {})
        for index, (kind, default, sub) in enumerate(_VARIABLES)
    ]


def _experiment(identity: str, number: int, variables: list[Json]) -> Json:
    keys = ("control", "treatment", "off")
    return {
        "id": identity,
        "key": f"experiment_{identity}",
        "status": "Running",
        "layerId": f"layer-{identity}",
        "audienceIds": [f"aud-{number}"],
        "audienceConditions": ["or", f"aud-{number}", ["not", ["and", "aud-old", f"aud-{number}"]]],
        "forcedVariations": {f"qa-user-{number}": "treatment"},
        "variations": [_variation(f"{identity}-{key}", key, variables) for key in keys],
        "trafficAllocation": [
            {"entityId": f"{identity}-{key}", "endOfRange": 3000 * (index + 1)} for index, key in enumerate(keys)
        ],
    } | ({"type": "fr"} if number % 3 == 1 else {"cmab": {"attributeIds": ["att-plan"], "trafficAllocation": 5000}})


def _variation(identity: str, key: str, variables: list[Json]) -> Json:
    enabled = key != "off"
    used = [{"id": variable["id"], "value": variable["defaultValue"]} for variable in variables] if enabled else []
    return {"id": identity, "key": key, "featureEnabled": enabled, "variables": used}


def _rule(number: int, rule: int) -> Json:
    identity = f"rule-{number}-{rule}"
    everyone = rule == 2
    return {
        "id": identity,
        "key": identity,
        "status": "Running",
        "layerId": f"rollout-{number}",
        "audienceIds": [] if everyone else [f"aud-{number}"],
        "audienceConditions": [] if everyone else ["or", f"aud-{number}"],
        "forcedVariations": {},
        "variations": [{"id": f"{identity}-v", "key": "off" if everyone else "on", "featureEnabled": not everyone}],
        "trafficAllocation": [{"entityId": f"{identity}-v", "endOfRange": 10000}],
    }


def _group(number: int, experiment: Json) -> Json:
    return {
        "id": f"group-{number}",
        "policy": "random",
        "trafficAllocation": [{"entityId": experiment["id"], "endOfRange": 10000}],
        "experiments": [experiment],
    }
