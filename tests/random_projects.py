"""Random projects of a few flags, and what people and Optimizely do to them from one revision to the next.

Equal seeds give equal projects. In `EDITS` are changes that may decide something, in `REWRITES` those that never do.
"""

import json
from collections.abc import Callable
from random import Random
from typing import Any

Json = dict[str, Any]

ATTRIBUTES: dict[str, list[Any]] = {
    "plan": ["gold", "silver", "beta-tester"],
    "age": [17, 18, 18.5, 40],
    "app_version": ["2.0.9", "2.1.0", "3.0.0"],
    "country": ["DE", "FR", None],
    "employee": [True, False],
}
SEGMENTS = ("vip", "churned")
USERS = ("qa-1", "qa-2", "qa-3", "u-1")
_STATUSES = ("Running", "Running", "Running", "Paused", "Not started")
_ENDS = (0, 1, 500, 1000, 2500, 5000, 9999, 10000)
_VALUES = {
    "string": ["", "Añade", "b"],
    "integer": ["1", "20"],
    "boolean": ["true", "false"],
    "json": ['{"a": 1}', '{"a": 2}'],
}


def project(random: Random) -> Json:
    """Return a datafile with a few flags of every kind."""
    audiences = [_audience(number, random) for number in range(6)]
    old = {"id": "a-old", "name": "old", "conditions": json.dumps(["or", _leaf(random)])}
    datafile: Json = {
        "version": "4",
        "revision": "42",
        "projectId": "1234",
        "accountId": "222",
        "environmentKey": "production",
        "anonymizeIP": True,
        "botFiltering": False,
        "sendFlagDecisions": True,
        "variables": [],
        "attributes": [{"id": f"at-{name}", "key": name} for name in ATTRIBUTES],
        "events": [{"id": "ev-1", "key": "purchase", "experimentIds": []}],
        "integrations": [{"key": "odp", "host": "https://odp.example", "publicKey": "k"}],
        "audiences": [old, {"id": "$opt_dummy_audience", "name": "nobody", "conditions": '["or", {}]'}],
        "typedAudiences": [*audiences, _audience(99, random)],
        "experiments": [_rule("legacy", random, ["a-0", "a-old"])],
        "groups": [],
        "rollouts": [],
        "featureFlags": [],
        "holdouts": [],
        "localHoldouts": [],
    }
    for number in range(5):
        _add_flag(datafile, number, random)
    if random.random() < 0.2:  # the SDK looks some things up by keys, which are not always unique
        one, other = random.sample(rules(datafile), 2)
        one["key"] = other["key"]
    datafile["holdouts"] = [_holdout(number, random) for number in range(random.randrange(3))]
    included = [one["id"] for one in random.sample(rules(datafile), 2)]
    datafile["localHoldouts"] = [{**_holdout(7, random), "includedRules": included}] if random.random() < 0.3 else []
    return datafile


def _add_flag(datafile: Json, number: int, random: Random) -> None:
    names = [f"a-{one}" for one in range(6)] + ["a-old"]
    variables = [
        {
            "id": f"v-{number}-{kind}",
            "key": kind,
            "type": "string" if kind == "json" else kind,
            "defaultValue": values[0],
        }
        | ({"subType": "json"} if kind == "json" else {})
        for kind, values in _VALUES.items()
    ]
    experiments = [_rule(f"e-{number}-{one}", random, names, variables) for one in range(random.randrange(3))]
    rules = [_rule(f"r-{number}-{one}", random, names, variables) for one in range(random.randrange(3))]
    last = _rule(f"r-{number}-last", random, [], variables)
    if experiments and random.random() < 0.3:
        ends = sorted(random.sample(_ENDS, len(experiments)))
        allocation = [{"entityId": one["id"], "endOfRange": end} for one, end in zip(experiments, ends, strict=True)]
        group = {"id": f"g-{number}", "policy": random.choice(["random", "random", "overlapping"])}
        datafile["groups"].append({**group, "trafficAllocation": allocation, "experiments": experiments})
    else:
        datafile["experiments"] += experiments
    datafile["rollouts"].append({"id": f"ro-{number}", "experiments": [*rules, last]})
    flag = {"id": f"f-{number}", "key": f"flag_{number}", "rolloutId": f"ro-{number}", "variables": variables}
    datafile["featureFlags"].append({**flag, "experimentIds": [one["id"] for one in experiments]})


def _audience(number: int, random: Random) -> Json:
    leaves = [_leaf(random) for _ in range(random.randint(1, 3))]
    combined: list[Any] = [random.choice(["and", "or", "or"]), *leaves]
    return {
        "id": f"a-{number}",
        "name": f"Audience {number}",
        "conditions": ["not", combined] if number == 3 else combined,
    }


def _leaf(random: Random) -> Json:
    if random.random() < 0.1:
        segment = {"type": "third_party_dimension", "name": "odp.audiences", "match": "qualified"}
        return {**segment, "value": random.choice(SEGMENTS)}
    name = random.choice([*ATTRIBUTES])
    value = random.choice(ATTRIBUTES[name])
    matches = {"plan": ["exact", "substring"], "age": ["exact", "gt", "le"], "app_version": ["semver_ge", "exact"]}
    match = random.choice(matches.get(name, ["exact", "exists"]))
    return {"type": "custom_attribute", "name": name, "match": match, "value": value}


def _rule(identity: str, random: Random, audiences: list[str], variables: list[Json] | None = None) -> Json:
    keys = ("on", "off") if identity.startswith("r") else ("control", "treatment", "off")
    variations = [_variation(f"{identity}-{key}", key, random, variables or []) for key in keys]
    named = random.sample(audiences, random.randint(0, 2)) if audiences else []
    rule = {
        "id": identity,
        "key": f"key_{identity}",
        "status": random.choice(_STATUSES),
        "layerId": "l",
        "audienceIds": named,
        "variations": variations,
        "trafficAllocation": _allocation(variations, random),
        "forcedVariations": {user: random.choice(keys) for user in USERS[: random.randrange(3)]},
    }
    if random.random() < 0.5:
        rule["audienceConditions"] = [random.choice(["or", "and"]), *named] if named else []
    if identity.startswith("e"):
        rule["type"] = random.choice(["ab", "ab", "fr", "td"])
        if random.random() < 0.17:
            rule["cmab"] = {"attributeIds": ["at-plan"], "trafficAllocation": 5000}
    return rule


def _variation(identity: str, key: str, random: Random, variables: list[Json]) -> Json:
    used = [
        {"id": one["id"], "value": random.choice(_VALUES[str(one.get("subType") or one["type"])])}
        for one in variables
        if random.random() < 0.3
    ]
    return {"id": identity, "key": key, "featureEnabled": key != "off", "variables": used}


def _allocation(variations: list[Json], random: Random) -> list[Json]:
    ends = sorted(random.sample(_ENDS, len(variations)))
    return [{"entityId": one["id"], "endOfRange": end} for one, end in zip(variations, ends, strict=True)]


def _holdout(number: int, random: Random) -> Json:
    variations = [{"id": f"h-{number}-off", "key": "off", "featureEnabled": False, "variables": []}]
    return {
        "id": f"h-{number}",
        "key": f"holdout_{number}",
        "status": random.choice(["Running", "Running", "Draft"]),
        "variations": variations,
        "audienceIds": random.choice([[], ["a-1"]]),
        "layerId": "l",
        "trafficAllocation": [{"entityId": f"h-{number}-off", "endOfRange": random.choice(_ENDS)}],
        "excludeTargetedDeliveries": random.random() < 0.5,
    }


# What may decide something


def rules(datafile: Json) -> list[Json]:
    """Return every experiment and delivery rule."""
    grouped = [one for group in datafile["groups"] for one in group["experiments"]]
    return [
        *datafile["experiments"],
        *grouped,
        *(one for rollout in datafile["rollouts"] for one in rollout["experiments"]),
    ]


def _any_rule(edit: Callable[[Json, Random], None]) -> Callable[[Json, Random], None]:
    return lambda datafile, random: edit(random.choice(rules(datafile)), random)


def _any_experiment(edit: Callable[[Json, Random], None]) -> Callable[[Json, Random], None]:
    def change(datafile: Json, random: Random) -> None:
        edit(random.choice([one for one in rules(datafile) if not one["id"].startswith("r")]), random)

    return change


def _kill(datafile: Json, random: Random) -> None:
    flag = random.choice(datafile["featureFlags"])
    flag["experimentIds"] = []
    rollout = next(one for one in datafile["rollouts"] if one["id"] == flag["rolloutId"])
    rollout["experiments"] = rollout["experiments"][-1:]
    rollout["experiments"][0]["trafficAllocation"] = [
        {"entityId": f"{rollout['experiments'][0]['id']}-off", "endOfRange": 10000}
    ]


def _reconsider_audience(datafile: Json, random: Random) -> None:
    old = next(one for one in datafile["audiences"] if one["id"] == "a-old")
    one = random.choice([*datafile["typedAudiences"], old])
    conditions = ["or", _leaf(random), _leaf(random)]
    one["conditions"] = json.dumps(conditions) if one["id"] == "a-old" else conditions


def _retarget(rule: Json, random: Random) -> None:
    rule["audienceIds"] = random.sample([f"a-{one}" for one in range(6)], random.randint(0, 2))
    rule.pop("audienceConditions", None)


def _toggle(rule: Json, random: Random) -> None:
    one = random.choice(rule["variations"])
    one["featureEnabled"] = not one["featureEnabled"]


def _revalue(rule: Json, random: Random) -> None:
    for one in [used for variation in rule["variations"] for used in variation["variables"]]:
        one["value"] = random.choice(["0", "true", "7"]) if not one["id"].endswith("json") else '{"a": 3}'


def _rename(rule: Json, random: Random) -> None:
    renamed = random.choice([rule, random.choice(rule["variations"])])
    renamed["key"] += "_2"


def _force(rule: Json, random: Random) -> None:
    rule["forcedVariations"] = {user: random.choice(rule["variations"])["key"] for user in random.sample(USERS, 2)}


def _allocate(rule: Json, random: Random) -> None:
    rule["trafficAllocation"] = _allocation(rule["variations"], random)


def _nudge(rule: Json, random: Random) -> None:
    one = random.choice(rule["trafficAllocation"])
    one["endOfRange"] = max(0, min(10000, one["endOfRange"] + random.choice([-300, -20, 20, 300])))


def _reorder_variations(rule: Json, random: Random) -> None:
    random.shuffle(rule["variations"])


def _share(datafile: Json, random: Random) -> None:
    for group in datafile["groups"]:
        group["trafficAllocation"] = [
            {**one, "endOfRange": end}
            for one, end in zip(group["trafficAllocation"], sorted(random.sample(_ENDS, 3)), strict=False)
        ]


def _drop_flag(datafile: Json, random: Random) -> None:
    datafile["featureFlags"].pop(random.randrange(len(datafile["featureFlags"])))


def _default(datafile: Json, random: Random) -> None:
    variable = random.choice(random.choice(datafile["featureFlags"])["variables"])
    variable["defaultValue"] = _VALUES[variable.get("subType", variable["type"])][1]


def _reorder_rules(datafile: Json, random: Random) -> None:
    random.shuffle(random.choice(datafile["rollouts"])["experiments"])
    random.shuffle(random.choice(datafile["featureFlags"])["experimentIds"])
    random.shuffle(datafile["holdouts"])


def _hold_out(datafile: Json, random: Random) -> None:
    others = [_holdout(number, random) for number in range(random.randrange(3))]
    datafile["holdouts"] = others
    for one in datafile["localHoldouts"]:
        one["includedRules"] = random.sample([rule["id"] for rule in rules(datafile)], 2)


def _restart(rule: Json, random: Random) -> None:
    rule["status"] = random.choice(["Running", "Paused", "Completed"])


def _retype(rule: Json, random: Random) -> None:
    rule["type"] = random.choice(["fr", "td", "ab"])


EDITS: tuple[Callable[[Json, Random], None], ...] = (
    *(_kill, _reconsider_audience, _share, _drop_flag, _default, _reorder_rules, _hold_out),
    *map(_any_rule, (_retarget, _toggle, _revalue, _rename, _allocate, _nudge, _reorder_variations)),
    *map(_any_experiment, (_force, _restart, _retype)),
)

# What decides nothing


def _shuffle_lists(datafile: Json, random: Random) -> None:
    for name in (
        "featureFlags",
        "experiments",
        "rollouts",
        "groups",
        "audiences",
        "typedAudiences",
        "events",
        "attributes",
    ):
        random.shuffle(datafile[name])


def _shuffle_fields(datafile: Json, random: Random) -> None:
    for one in (datafile, *datafile["featureFlags"], *rules(datafile)):
        items = [*one.items()]
        random.shuffle(items)
        one.clear()
        one.update(items)


def _shuffle_operands(datafile: Json, random: Random) -> None:
    for one in datafile["typedAudiences"]:
        if one["conditions"][0] != "not":
            operands = one["conditions"][1:]
            random.shuffle(operands)
            one["conditions"][1:] = operands


def _change_unused_audience(datafile: Json, random: Random) -> None:
    datafile["typedAudiences"] = [one for one in datafile["typedAudiences"] if one["id"] != "a-99"]
    datafile["typedAudiences"].append(_audience(99, random))


def _split_ranges(datafile: Json, random: Random) -> None:
    for rule in rules(datafile):
        allocation = rule["trafficAllocation"]
        allocation.insert(random.randrange(len(allocation)), {"entityId": "", "endOfRange": 0})


REWRITES: tuple[Callable[[Json, Random], None], ...] = (
    *(_shuffle_lists, _shuffle_fields, _shuffle_operands, _change_unused_audience, _split_ranges),
)
