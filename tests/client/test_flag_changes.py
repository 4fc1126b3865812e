"""Which flags differ between two datafiles, with what decides about them."""

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from optimizely.logger import NoOpLogger
from optimizely.project_config import ProjectConfig

from datafile_client import FlagChanges
from datafile_client._flag_changes import flag_digests
from datafile_client.testing import make_datafile

Datafile = dict[str, Any]


def rule(identifier: str, *, audience: str | None = None, conditions: Any = None) -> Datafile:
    return {
        "id": identifier,
        "key": identifier,
        "status": "Running",
        "layerId": "1",
        "audienceIds": [audience] if audience else [],
        "audienceConditions": conditions,
        "forcedVariations": {},
        "variations": [{"id": f"v-{identifier}", "key": "on", "featureEnabled": True, "variables": []}],
        "trafficAllocation": [{"entityId": f"v-{identifier}", "endOfRange": 10000}],
    }


def project() -> Datafile:
    """Five flags: by a rollout, by an experiment with an audience, by one in a group, by nested conditions, by a local holdout."""
    data: Datafile = json.loads(
        make_datafile({"plain": True, "audience": True, "group": True, "nested": True, "held": True})
    )
    _, audience, group, nested, held = data["featureFlags"]
    audience["experimentIds"], group["experimentIds"] = ["e-audience"], ["e-group"]
    nested["experimentIds"], held["experimentIds"] = ["e-nested"], ["e-held"]
    data["experiments"] = [
        rule("e-audience", audience="a1"),
        rule("e-nested", conditions=["and", ["or", "a1", ["not", "a2"]]]),
        rule("e-held"),
    ]
    other = rule("e-other")
    data["groups"] = [{"id": "g", "policy": "random", "trafficAllocation": [], "experiments": [rule("e-group"), other]}]
    data["typedAudiences"] = [
        {
            "id": name,
            "name": name,
            "conditions": ["and", {"type": "custom_attribute", "name": "n", "match": "exact", "value": 1}],
        }
        for name in ("a1", "a2", "a3")
    ]
    data["localHoldouts"] = [rule("h-local") | {"includedRules": ["e-held"]}]
    return data


def changes(before: Datafile, after: Datafile) -> FlagChanges:
    texts = [json.dumps(data) for data in (before, after)]
    for text in texts:
        assert ProjectConfig(text, NoOpLogger(), None).revision == "1", "the SDK takes it"
    return FlagChanges.between(*map(flag_digests, texts))


def condition(data: Datafile, number: int) -> None:
    data["typedAudiences"][number]["conditions"][1]["value"] = 2


def traffic(data: Datafile) -> None:
    data["groups"][0]["trafficAllocation"] = [{"entityId": "e-group", "endOfRange": 5000}]


def rollout(data: Datafile) -> None:
    data["rollouts"][0]["experiments"][0]["trafficAllocation"][0]["endOfRange"] = 1


def variable(data: Datafile) -> None:
    data["featureFlags"][0]["variables"] = [{"id": "1", "key": "x", "type": "string", "defaultValue": "new"}]


def holdout(data: Datafile) -> None:
    data["localHoldouts"][0]["trafficAllocation"][0]["endOfRange"] = 1


def held_out_everywhere(data: Datafile) -> None:
    data["holdouts"] = [rule("h-all")]


def order(data: Datafile) -> None:
    data["experiments"].reverse()
    data["featureFlags"].reverse()


def revision_alone(data: Datafile) -> None:
    data["attributes"] = [{"id": "1", "key": "n"}]


CASES: dict[str, tuple[Callable[[Datafile], None], set[str]]] = {
    "a rollout": (rollout, {"plain"}),
    "a variable": (variable, {"plain"}),
    "an audience of two": (lambda data: condition(data, 0), {"audience", "nested"}),
    "a nested audience": (lambda data: condition(data, 1), {"nested"}),
    "an audience of none": (lambda data: condition(data, 2), set()),
    "a group": (traffic, {"group"}),
    "a local holdout": (holdout, {"held"}),
    "a holdout of all": (held_out_everywhere, {"plain", "audience", "group", "nested", "held"}),
    "the order": (order, set()),
    "what decides nothing": (revision_alone, set()),
}


@pytest.mark.parametrize("case", CASES)
def test_a_flag_changes_with_all_that_decides_about_it(case: str) -> None:
    """A user who drops a cache of decisions drops those that may differ, and no others."""
    change, expected = CASES[case]
    after = copy.deepcopy(project())
    change(after)
    assert changes(project(), after) == FlagChanges(frozenset(), frozenset(), frozenset(expected))


def test_flags_come_and_go() -> None:
    """A user sees which flags are new and which are gone."""
    before, after = (
        json.loads(make_datafile(flags)) for flags in ({"old": True, "same": True}, {"same": True, "new": True})
    )
    after["featureFlags"][0], after["rollouts"][0] = before["featureFlags"][1], before["rollouts"][1]
    after["featureFlags"][1]["id"], after["featureFlags"][1]["rolloutId"] = "f9", "l9"
    after["rollouts"][1]["id"] = "l9"
    assert changes(before, after) == FlagChanges(frozenset({"new"}), frozenset({"old"}), frozenset())
    assert FlagChanges.between({}, {"a": b"1"}) == FlagChanges(frozenset({"a"}), frozenset(), frozenset())
