"""Writes one flag as a datafile has it: experiments, a rollout, audiences and variables."""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from datafile_client.testing._rules import Rule

_Json = dict[str, Any]


class FlagParts:
    """The parts of a datafile that decide about one flag.

    Args:
        number: makes the ids of its parts.
        key: the flag's key.
        rules: its rules.

    Raises:
        ValueError: the rules contradict each other.
    """

    def __init__(self, number: int, key: str, rules: Sequence[Rule]) -> None:
        self._number, self._key = number, key
        self._ids = itertools.count(1)
        self._variables = self._define_variables(rules)
        self.audiences: list[_Json] = []
        self.experiments = [self._for_user(rule) for rule in rules if rule.user is not None]
        deliveries: list[_Json] = []
        everybody = Rule.of(key, {"on": False})
        for audience, group in _by_audience(rules):
            if len(group) > 1:
                self.experiments.append(self._rule("split", group, audience))
            elif audience is not None:
                deliveries.append(self._rule("delivery", group, audience))
            else:
                everybody = group[0]
        last = self._rule("everybody", [everybody], number=str(number)) | {"key": f"{key}-everybody"}
        parts = {"rolloutId": f"l{number}", "experimentIds": [one["id"] for one in self.experiments]}
        self.feature = {"id": f"f{number}", "key": key, "variables": list(self._variables.values())} | parts
        self.rollout = {"id": f"l{number}", "experiments": [*deliveries, last]}

    def _for_user(self, rule: Rule) -> _Json:
        user = {"forcedVariations": {rule.user: rule.variation}, "trafficAllocation": []}
        return self._rule(f"user-{rule.user}", [rule]) | user

    def _rule(self, name: str, arms: Sequence[Rule], audience: Any = None, number: str = "") -> _Json:
        number = number or f"{self._number}-{next(self._ids)}"
        ends = [round(100 * end) for end in itertools.accumulate(arm.percentage for arm in arms)]
        if ends[-1] > 10000:
            raise ValueError(f"flag {self._key!r}: the percentages for the same people are more than 100 together")
        if len({arm.variation for arm in arms}) < len(arms):
            raise ValueError(f"flag {self._key!r}: each rule of a split needs a 'variation' of its own")
        variations = [self._variation(f"v{number}-{place}", arm) for place, arm in enumerate(arms, 1)]
        return {
            "id": f"r{number}",
            "key": f"{self._key}-{name}-{number.partition('-')[2]}",
            "status": "Running",
            "layerId": f"l{self._number}",
            "audienceIds": [] if audience is None else [self._add_audience(audience)],
            "forcedVariations": {},
            "variations": variations,
            "trafficAllocation": [
                {"entityId": variation["id"], "endOfRange": end}
                for variation, end in zip(variations, ends, strict=True)
            ],
        }

    def _variation(self, variation_id: str, arm: Rule) -> _Json:
        variables = [
            {"id": self._variables[name]["id"], "value": value.text}
            for name, value in arm.values.items()
            if value.text != self._variables[name]["defaultValue"]
        ]
        return {"id": variation_id, "key": arm.variation, "featureEnabled": arm.on, "variables": variables}

    def _add_audience(self, audience: Any) -> str:
        audience_id = f"{self._number}-{len(self.audiences) + 1}"
        if isinstance(audience, Mapping):
            exact = {"match": "exact", "type": "custom_attribute"}
            audience = ["and", *(exact | {"name": name, "value": value} for name, value in audience.items())]
        self.audiences.append({"id": audience_id, "name": f"{self._key} {audience_id}", "conditions": audience})
        return audience_id

    def _define_variables(self, rules: Sequence[Rule]) -> dict[str, _Json]:
        """Return the variables by their keys. To users for whom the flag is off, the SDK gives their defaults."""
        everybody = [rule for rule in rules if rule.user is None and rule.audience is None and rule.on]
        defaults = dict(everybody[0].values) if len(everybody) == 1 else {}
        for name, value in itertools.chain.from_iterable(rule.values.items() for rule in rules if not rule.on):
            defaults[name] = value
        variables: dict[str, _Json] = {}
        for rule in rules:
            for name, value in rule.values.items():
                kind = {"type": "string", "subType": "json"} if value.kind == "json" else {"type": value.kind}
                text = defaults[name].text if name in defaults else value.empty
                made = {"id": f"{self._number}-{name}", "key": name, "defaultValue": text} | kind
                if variables.setdefault(name, made) | kind != variables[name]:
                    raise ValueError(f"flag {self._key!r}: the variable {name!r} has values of different types")
                if not rule.on and text != value.text:
                    raise ValueError(f"flag {self._key!r}: the variable {name!r} has two values where the flag is off")
        return variables


def attributes_of(conditions: Any) -> Iterator[str]:
    """Yield the names of the attributes in nested lists of conditions."""
    if isinstance(conditions, Mapping):
        yield str(conditions.get("name"))
    elif isinstance(conditions, Sequence) and not isinstance(conditions, str):
        for one in conditions:
            yield from attributes_of(one)


def _by_audience(rules: Sequence[Rule]) -> list[tuple[Any, list[Rule]]]:
    groups: dict[str, list[Rule]] = {}
    for rule in rules:
        if rule.user is None:
            groups.setdefault(json.dumps(rule.audience, sort_keys=True), []).append(rule)
    return [(group[0].audience, group) for group in groups.values()]
