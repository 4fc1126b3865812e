"""The difference of two datafiles in words: fifty pairs, each with exactly the lines that people read."""

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from datafile_sidecar.core import datafile
from datafile_sidecar.core.difference import difference
from tests.datafiles import realistic

Json = dict[str, Any]


def _rule(key: str, audiences: list[str], traffic: dict[str, int], **more: Any) -> Json:
    variations = [
        {"id": f"{key}-{name}", "key": name, "featureEnabled": name != "off", "variables": []} for name in traffic
    ]
    return {
        "id": f"id-{key}",
        "key": key,
        "status": "Running",
        "layerId": "1",
        "audienceIds": audiences,
        "variations": variations,
        "forcedVariations": {},
        "trafficAllocation": [{"entityId": f"{key}-{name}", "endOfRange": end} for name, end in traffic.items()],
        **more,
    }


def _holdout(key: str, **more: Any) -> Json:
    return _rule(key, more.pop("audienceIds", []), {"off": 500}, **more)


def _base() -> Json:
    condition = {"type": "custom_attribute", "name": "plan", "match": "exact", "value": "gold"}
    price = {"id": "v1", "key": "price", "type": "integer", "defaultValue": "10"}
    experiment = _rule("price_test", ["a1"], {"control": 5000, "treatment": 10000}, forcedVariations={"u1": "control"})
    experiment["variations"][1]["variables"] = [{"id": "v1", "value": "12"}]
    grouped = _rule("grouped", [], {"on": 10000})
    group = {"id": "g1", "policy": "random", "trafficAllocation": [{"entityId": "id-grouped", "endOfRange": 5000}]}
    return {
        "version": "4",
        "revision": "42",
        "sdkKey": "KEY1",
        "projectId": "1234",
        "accountId": "222",
        "environmentKey": "production",
        "anonymizeIP": True,
        "botFiltering": False,
        "sendFlagDecisions": True,
        "attributes": [{"id": "at1", "key": "plan"}],
        "events": [{"id": "e1", "key": "purchase", "experimentIds": ["id-price_test"]}],
        "integrations": [{"key": "odp", "host": "https://odp.example", "publicKey": "PUBLIC-KEY"}],
        "audiences": [],
        "typedAudiences": [
            {"id": "a1", "name": "Gold", "conditions": ["or", condition, {**condition, "value": "silver"}]},
            {"id": "a2", "name": "Beta testers", "conditions": ["or", {**condition, "value": "beta"}]},
            {"id": "a3", "name": "Unused", "conditions": ["or", condition]},
            {"id": "a4", "name": "Held out", "conditions": ["or", condition]},
        ],
        "experiments": [experiment, _rule("old_test", [], {"control": 10000})],
        "groups": [{**group, "experiments": [grouped]}],
        "rollouts": [
            {"id": "ro1", "experiments": [_rule("beta", ["a2"], {"on": 1000}), _rule("last", [], {"off": 10000})]},
            {"id": "ro2", "experiments": [_rule("search_last", [], {"on": 10000})]},
            {"id": "ro3", "experiments": [_rule("banner_last", [], {"off": 10000})]},
        ],
        "featureFlags": [
            {
                "id": "f1",
                "key": "checkout",
                "experimentIds": ["id-price_test"],
                "rolloutId": "ro1",
                "variables": [price],
            },
            {"id": "f2", "key": "search", "experimentIds": [], "rolloutId": "ro2", "variables": []},
            {"id": "f3", "key": "banner", "experimentIds": ["id-grouped"], "rolloutId": "ro3", "variables": []},
        ],
        "holdouts": [_holdout("global"), _holdout("second", status="Draft", audienceIds=["a4"])],
        "localHoldouts": [_holdout("local", includedRules=["id-beta"])],
    }


def _test(data: Json) -> Json:
    rule: Json = data["experiments"][0]
    return rule


def _beta(data: Json) -> Json:
    rule: Json = data["rollouts"][0]["experiments"][0]
    return rule


def _search(data: Json) -> Json:
    rule: Json = data["rollouts"][1]["experiments"][0]
    return rule


def _ends(rule: Json, *ends: int) -> None:
    for one, end in zip(rule["trafficAllocation"], ends, strict=True):
        one["endOfRange"] = end


def _kill(data: Json) -> None:
    _search(data)["variations"][0]["featureEnabled"] = False


def _remove_rule(data: Json) -> None:
    data["featureFlags"][0]["experimentIds"] = []
    data["experiments"].pop(0)


def _pause_both(data: Json) -> None:
    _test(data)["status"] = "Paused"
    _ends(_beta(data), 0)


def _replace_rule(data: Json) -> None:
    _beta(data)["id"] = "id-anew"


def _replace_variation(data: Json) -> None:
    rule = _test(data)
    rule["variations"][1]["id"] = rule["trafficAllocation"][1]["entityId"] = "anew"


def _add_variation(data: Json) -> None:
    _test(data)["variations"].append({"id": "t2", "key": "second", "featureEnabled": True, "variables": []})


def _add_flag(data: Json) -> None:
    data["rollouts"].append({"id": "ro9", "experiments": [_rule("new_last", [], {"on": 2500})]})
    data["featureFlags"].append({"id": "f9", "key": "new", "experimentIds": [], "rolloutId": "ro9", "variables": []})


def _add_many_flags(data: Json) -> None:
    for number in range(5):
        flag = {"id": f"n{number}", "key": f"new_{number}", "experimentIds": [], "rolloutId": "", "variables": []}
        data["featureFlags"].append(flag)


def _leave_group(data: Json) -> None:
    data["experiments"] += data["groups"].pop()["experiments"]


def _many_users(data: Json) -> None:
    _test(data)["forcedVariations"] = {f"secret-user-{number}": "control" for number in range(3)}


def _to_bandit(data: Json) -> None:
    _test(data)["cmab"] = {"attributeIds": ["at1"], "trafficAllocation": 5000}


def _variable(data: Json) -> Json:
    variable: Json = data["featureFlags"][0]["variables"][0]
    return variable


def _move_buckets(data: Json) -> None:
    rule = _test(data)
    rule["trafficAllocation"].reverse()
    _ends(rule, 5000, 10000)


def _hostile(data: Json) -> None:
    data["featureFlags"][1]["key"] = "x: off for everyone\u202e\n\x1b[2J" + "y" * 500


def _set(*path: Any) -> Callable[[Json], None]:
    *parents, last, value = path

    def change(data: Json) -> None:
        target: Any = data
        for one in parents:
            target = target[one]
        target[last] = value

    return change


def _shuffle(data: Json) -> None:
    for name in ("featureFlags", "experiments", "rollouts", "typedAudiences"):
        data[name].reverse()
    gold = next(one for one in data["typedAudiences"] if one["id"] == "a1")
    gold["conditions"][1:] = reversed(gold["conditions"][1:])
    data["featureFlags"][0] = dict(reversed(data["featureFlags"][0].items()))


GOLDEN: dict[str, tuple[Callable[[Json], object], list[str]]] = {
    "nothing": (lambda _: None, []),
    "revision": (_set("revision", "43"), []),
    "order": (_shuffle, []),
    "unused audience": (_set("typedAudiences", 2, "conditions", ["and"]), []),
    "unused audience removed": (lambda data: data["typedAudiences"].pop(2), []),
    "audience renamed": (_set("typedAudiences", 0, "name", "Golden"), []),
    "empty range": (lambda data: _beta(data)["trafficAllocation"].append({"entityId": "", "endOfRange": 10000}), []),
    "range below the one before": (
        lambda data: _beta(data)["trafficAllocation"].append({"entityId": "beta-on", "endOfRange": 500}),
        [],
    ),
    "kill switch": (_kill, ["search: off for everyone", "search: everyone else: off"]),
    "all of it paused": (
        _pause_both,
        ["checkout: off for everyone", "checkout: rule price_test: paused", "checkout: rule beta: traffic 10 % → 0 %"],
    ),
    "on for everyone": (
        _set("rollouts", 2, "experiments", 0, "variations", 0, "featureEnabled", True),
        ["banner: on for everyone", "banner: everyone else: on"],
    ),
    "no longer for everyone": (
        lambda data: _ends(_search(data), 5000),
        ["search: on for some users", "search: everyone else: traffic 100 % → 50 %"],
    ),
    "traffic": (lambda data: _ends(_beta(data), 5000), ["checkout: rule beta: traffic 10 % → 50 %"]),
    "fine traffic": (lambda data: _ends(_beta(data), 1025), ["checkout: rule beta: traffic 10 % → 10.25 %"]),
    "split": (
        lambda data: _ends(_test(data), 1000, 10000),
        ["checkout: rule price_test: traffic control 50 %, treatment 50 % → control 10 %, treatment 90 %"],
    ),
    "moved buckets": (_move_buckets, ["checkout: rule price_test: traffic in the same shares, for other users"]),
    "paused": (_set("experiments", 0, "status", "Paused"), ["checkout: rule price_test: paused"]),
    "ended": (_set("experiments", 0, "status", "Completed"), ["checkout: rule price_test: ended"]),
    "unknown status": (_set("experiments", 0, "status", "Odd one"), ['checkout: rule price_test: status "Odd one"']),
    "audience of a rule": (
        _set("experiments", 0, "audienceIds", ["a2"]),
        ['checkout: rule price_test: for "Beta testers" instead of Gold'],
    ),
    "rule for everyone": (
        _set("rollouts", 0, "experiments", 0, "audienceIds", []),
        ['checkout: rule beta: for everyone instead of "Beta testers"'],
    ),
    "rule for a combination": (
        _set("experiments", 0, "audienceConditions", ["and", "a1", "a2"]),
        ["checkout: rule price_test: for a combination of audiences instead of Gold"],
    ),
    "other conditions first, same audiences": (_set("experiments", 0, "audienceConditions", ["or", "a1"]), []),
    "conditions of an audience": (
        _set("typedAudiences", 0, "conditions", ["or"]),
        ["audience Gold: conditions changed (used by checkout)"],
    ),
    "audience of a holdout": (
        _set("typedAudiences", 3, "conditions", ["or"]),
        ['audience "Held out": conditions changed (used by second)'],
    ),
    "audience removed": (
        lambda data: data["typedAudiences"].pop(1),
        ['audience "Beta testers": removed (used by checkout)'],
    ),
    "forced users": (_many_users, ["checkout: rule price_test: forced users 1 → 3"]),
    "one forced user": (
        _set("experiments", 0, "forcedVariations", "u1", "treatment"),
        ["checkout: rule price_test: 1 of 1 forced users changed"],
    ),
    "rule removed": (_remove_rule, ["checkout: rule price_test removed"]),
    "rule added": (
        lambda data: data["rollouts"][1]["experiments"].insert(0, _rule("gold", ["a1"], {"off": 2500})),
        ["search: on for some users", "search: rule gold added (off, 25 %, for Gold)"],
    ),
    "rule replaced": (
        _replace_rule,
        ['checkout: rule beta replaced, so that users are distributed anew (on, 10 %, for "Beta testers")'],
    ),
    "rule renamed": (
        _set("rollouts", 0, "experiments", 0, "key", "gamma"),
        ["checkout: rule gamma: renamed from beta"],
    ),
    "order of rules": (lambda data: data["rollouts"][0]["experiments"].reverse(), ["checkout: order of rules changed"]),
    "variation added": (_add_variation, ["checkout: rule price_test: variation second added"]),
    "variation replaced": (_replace_variation, ["checkout: rule price_test: variation treatment replaced"]),
    "variation off": (
        _set("experiments", 0, "variations", 1, "featureEnabled", False),
        ["checkout: rule price_test: variation treatment: off"],
    ),
    "variation renamed": (
        _set("experiments", 0, "variations", 1, "key", "offer"),
        ["checkout: rule price_test: variation offer: renamed from treatment"],
    ),
    "value of a variation": (
        _set("experiments", 0, "variations", 1, "variables", 0, "value", "15"),
        ["checkout: rule price_test: variation treatment: price 12 → 15"],
    ),
    "value back to its default": (
        _set("experiments", 0, "variations", 1, "variables", []),
        ["checkout: rule price_test: variation treatment: price 12 → its default"],
    ),
    "default of a variable": (
        lambda data: _variable(data).update(defaultValue="1 or more"),
        ["checkout: variable price: default 10 → a text"],
    ),
    "text of a variable": (
        lambda data: _variable(data).update(defaultValue="$ECRET"),
        ["checkout: variable price: default 10 → a text"],
    ),
    "boolean of a variable": (
        lambda data: _variable(data).update(defaultValue="true"),
        ["checkout: variable price: default 10 → true"],
    ),
    "type of a variable": (
        lambda data: _variable(data).update(type="double"),
        ["checkout: variable price: type integer → double"],
    ),
    "variable removed": (_set("featureFlags", 0, "variables", []), ["checkout: variable price removed"]),
    "contextual bandit": (_to_bandit, ["checkout: rule price_test: now a contextual bandit"]),
    "field without words": (_set("experiments", 0, "layerId", "2"), ["checkout: rule price_test: changed in layerId"]),
    "flag added": (_add_flag, ["new: added, on for some users"]),
    "flags added": (_add_many_flags, ["5 flags added, off for everyone: new_0, new_1, new_2 and 2 more"]),
    "flag removed": (lambda data: data["featureFlags"].pop(1), ["search: removed"]),
    "hostile name": (
        _hostile,
        [
            "search: removed",
            '"x: off for everyone\\u202e\\n\\x1b[2Jyyyyyyyyyyyyyyyyyyyyyyyyy…": added, on for everyone',
        ],
    ),
    "share of a group": (
        _set("groups", 0, "trafficAllocation", 0, "endOfRange", 2500),
        ["banner: rule grouped: share of its exclusion group 50 % → 25 %"],
    ),
    "out of a group": (_leave_group, ["banner: rule grouped: no longer in an exclusion group"]),
    "experiment without a flag": (_set("experiments", 1, "status", "Paused"), ["experiment old_test: paused"]),
    "holdout started": (_set("holdouts", 1, "status", "Running"), ["holdout second: started"]),
    "holdout ended": (_set("holdouts", 0, "status", "Concluded"), ["holdout global: ended"]),
    "holdout's traffic": (
        _set("holdouts", 0, "trafficAllocation", 0, "endOfRange", 1000),
        ["holdout global: traffic 5 % → 10 %"],
    ),
    "holdout added": (
        lambda data: data["holdouts"].append(_holdout("third")),
        ["holdout third: added (off, 5 %, for everyone)"],
    ),
    "local holdout": (
        _set("localHoldouts", 0, "includedRules", ["id-last"]),
        ["local holdout local: changed in includedRules"],
    ),
    "bot filtering": (_set("botFiltering", True), ["bot filtering off → on"]),
    "ODP": (_set("integrations", 0, "publicKey", "OTHER-KEY"), ["integration odp changed in publicKey"]),
    "events": (
        _set("events", [{"id": "e2", "key": "sign-up", "experimentIds": []}]),
        ["event sign-up added", "event purchase removed"],
    ),
    "attribute": (lambda data: data["attributes"].append({"id": "at2", "key": "age"}), ["attribute age added"]),
    "another project": (_set("projectId", "99"), ["project 1234 → 99"]),
    "unknown field": (_set("future", {"a": 1}), ["changed in future"]),
}


def _same_key(data: Json) -> None:
    data["experiments"][1]["key"] = "price_test"


def _feature_rollout(data: Json) -> None:
    data["rollouts"][0]["experiments"][1] = _rule("last", [], {"off": 5000, "on": 10000})
    _test(data)["type"] = "fr"


def _negate(data: Json) -> None:
    data["typedAudiences"][0]["conditions"][0] = "not"


def _text_variable(data: Json) -> None:
    _variable(data).update(defaultValue="one", type="string")
    _test(data)["variations"][1]["variables"][0]["value"] = "two"


def _other_texts(data: Json) -> None:
    _variable(data).update(defaultValue="three")
    _test(data)["variations"][1]["variables"][0]["value"] = "four"


_REVERSED = "checkout: rule price_test: 1 forced users changed"
PREPARED: dict[str, tuple[Callable[[Json], object], Callable[[Json], object], list[str]]] = {
    "order of rules of one key": (_same_key, lambda data: data["experiments"].reverse(), [_REVERSED]),
    "holdout with the key of a rule": (
        lambda _: None,
        lambda data: data["holdouts"].append(_holdout("price_test", status="Draft", id="h9")),
        [_REVERSED, "holdout price_test: added (off, 5 %, for everyone, not running)"],
    ),
    "delivery rule with the key of an experiment": (
        lambda _: None,
        _set("rollouts", 0, "experiments", 0, "key", "price_test"),
        [_REVERSED, "checkout: rule price_test: renamed from beta"],
    ),
    "first variation for the rest of a feature rollout": (
        _feature_rollout,
        lambda data: data["rollouts"][0]["experiments"][1]["variations"].reverse(),
        ["checkout: the rest of a feature rollout gets on"],
    ),
    "texts of variables, which are not shown": (
        _text_variable,
        _other_texts,
        ["checkout: rule price_test: variation treatment: price changed", "checkout: variable price: default changed"],
    ),
    "order below not": (
        _negate,
        lambda data: data["typedAudiences"][0]["conditions"].append(data["typedAudiences"][0]["conditions"].pop(1)),
        ["audience Gold: conditions changed (used by checkout)"],
    ),
    "order of holdouts": (
        _set("holdouts", 1, "status", "Running"),
        lambda data: data["holdouts"].reverse(),
        ["order of holdouts changed"],
    ),
    "group that excludes nothing": (
        _set("groups", 0, "policy", "overlapping"),
        _set("groups", 0, "trafficAllocation", 0, "endOfRange", 1),
        [],
    ),
}


def _bytes(data: Json, **options: Any) -> bytes:
    body = json.dumps(data, **options).encode()
    datafile.parse(body, "KEY1")
    return body


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_pairs(name: str) -> None:
    """Each kind of change has its words, whatever the spacing of the two files is."""
    change, lines = GOLDEN[name]
    after = copy.deepcopy(_base())
    change(after)
    assert difference(_bytes(_base()), _bytes(after)) == lines
    assert difference(_bytes(_base(), indent=2), _bytes(after, separators=(",", ":"))) == lines


@pytest.mark.parametrize("name", PREPARED)
def test_golden_pairs_of_other_datafiles(name: str) -> None:
    """So have changes of what few datafiles have."""
    prepare, change, lines = PREPARED[name]
    before = _base()
    prepare(before)
    after = copy.deepcopy(before)
    change(after)
    assert difference(_bytes(before), _bytes(after)) == lines


def test_there_are_fifty() -> None:
    """At least fifty pairs are held."""
    assert len(GOLDEN) >= 50


def test_no_secrets_and_users() -> None:
    """No line names a user or a key of the data platform."""
    before, after = _base(), _base()
    for change, _ in GOLDEN.values():
        one = copy.deepcopy(before)
        change(one)
        text = "\n".join(difference(_bytes(before), _bytes(one)))
        assert not any(secret in text for secret in ("u1", "secret-user", "PUBLIC-KEY", "OTHER-KEY"))
    assert difference(_bytes(before), _bytes(after)) == []


def test_a_hundred_changes() -> None:
    """Where most flags change, the flags that are off for everyone now come first, in one line."""
    before = json.loads(realistic(100, 42))
    after = copy.deepcopy(before)
    for flag in after["featureFlags"]:
        flag["experimentIds"] = []
    for rollout in after["rollouts"]:
        del rollout["experiments"][:-1]
    assert difference(_bytes(before), _bytes(after))[0].endswith(
        "flags off for everyone: feature_0, feature_1, feature_2 and 29 more"
    )
