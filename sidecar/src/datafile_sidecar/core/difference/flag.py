"""The difference of one flag in two datafiles: whom it is on for, its variables and its rules."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

from datafile_sidecar.core.difference.entries import Entries, decoded
from datafile_sidecar.core.difference.rule import Rule, dicts, is_enabled, rule_changes
from datafile_sidecar.core.difference.wording import canonical, fields, listed, named, value_change

_DESCRIBED = ("key", "experimentIds", "rolloutId", "variables")
_OF_A_VARIABLE = ("id", "key", "type", "subType", "defaultValue")


class Reach(Enum):
    """Whom a flag is on for, apart from holdouts."""

    NOBODY = "off for everyone"
    SOME = "on for some users"
    EVERYONE = "on for everyone"


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag of a datafile, with its rules in the order in which the SDK tries them, by kind and id."""

    data: dict[str, Any]
    rules: dict[tuple[bool, Any], Rule]

    @classmethod
    def of(cls, key: Any, entries: Entries) -> "Flag":
        """Decode a flag and its rules."""
        entry = entries.flag(key)
        rules = {(False, one): experiment(one, entries) for one in entry.experiment_ids if one in entries.rules}
        rollout = entries.rollouts.get(entry.rollout_id)
        delivery = {one.get("id"): one for one in dicts(decoded(rollout).get("experiments"))} if rollout else {}
        for index, (one, data) in enumerate(delivery.items()):
            rules[True, one] = Rule(data, entries, is_delivery=True, is_last=index == len(delivery) - 1)
        return cls(decoded(entries.flags[key]), rules)

    @property
    def reach(self) -> Reach:
        """Whom this flag is on for."""
        reachable = [variation for rule in self.rules.values() for variation in rule.reachable] + self._rest
        if not any(is_enabled(one) for one in reachable):
            return Reach.NOBODY
        last = next(reversed(self.rules.values()))
        is_whole = last.is_delivery and last.is_on_for_everyone and all(is_enabled(one) for one in reachable)
        return Reach.EVERYONE if is_whole else Reach.SOME

    @property
    def _rest(self) -> list[dict[str, Any]]:
        """What the rest of the users of a feature rollout get: the first variation of the last delivery rule."""
        first = self.default_variation
        has_rollout = any(rule.data.get("type") == "fr" and rule.reachable for rule in self.rules.values())
        return [first] if first and has_rollout else []

    @property
    def default_variation(self) -> dict[str, Any] | None:
        """The first variation of the last delivery rule."""
        last = [rule for rule in self.rules.values() if rule.is_delivery][-1:]
        return next(iter(dicts(last[0].data.get("variations"))), None) if last else None


def experiment(one: Any, entries: Entries) -> Rule:
    """Decode an experiment, alone or in a group."""
    group = entries.groups.get(entries.group_of.get(one))
    return Rule(decoded(entries.rules[one]), entries, group=decoded(group) if group else None)


def flag_changes(old: Flag, new: Flag) -> Iterator[str]:
    """Yield in words what changes in a flag, beside whom it is on for."""
    variables = {one.get("id"): one.get("key") for flag in (old, new) for one in dicts(flag.data.get("variables"))}
    yield from _presence(old, new)
    for one in new.rules:
        if one in old.rules and (parts := list(rule_changes(old.rules[one], new.rules[one], variables))):
            yield f"{new.rules[one].label}: {'; '.join(parts)}"
    if _order(old, new) != _order(new, old):
        yield "order of rules changed"
    was, now = ((flag.default_variation or {}).get("id") for flag in (old, new))
    if was != now and any(rule.data.get("type") == "fr" for rule in new.rules.values()):
        yield f"the rest of a feature rollout gets {named((new.default_variation or {}).get('key'))}"
    yield from _variables(old, new)
    if others := fields(old.data, new.data, _DESCRIBED):
        yield f"changed in {listed(others)}"


def _presence(old: Flag, new: Flag) -> Iterator[str]:
    gone = {rule.key: rule for one, rule in old.rules.items() if one not in new.rules}
    come = {rule.key: rule for one, rule in new.rules.items() if one not in old.rules}
    for key, rule in come.items():
        what = "replaced, so that users are distributed anew" if key in gone else "added"
        yield f"{rule.label} {what} ({rule.describe()})"
    if removed := [key for key in gone if key not in come]:
        yield f"rule{'s' if len(removed) > 1 else ''} {listed(removed)} removed"


def _order(one: Flag, other: Flag) -> list[Any]:
    return [rule for rule in one.rules if rule in other.rules]


def _variables(old: Flag, new: Flag) -> Iterator[str]:
    was, now = ({one.get("key"): one for one in dicts(flag.data.get("variables"))} for flag in (old, new))
    for key in {**was, **now}:
        name, before, after = f"variable {named(key)}", was.get(key), now.get(key)
        if before is None or after is None:
            yield f"{name} added" if after else f"{name} removed"
            continue
        if canonical(before.get("defaultValue")) != canonical(after.get("defaultValue")):
            yield f"{name}: default {value_change(before.get('defaultValue'), after.get('defaultValue'))}"
        types = [(one.get("type"), one.get("subType")) for one in (before, after)]
        if types[0] != types[1]:
            yield f"{name}: type {named(types[0][1] or types[0][0])} → {named(types[1][1] or types[1][0])}"
        if before.get("id") != after.get("id"):
            yield f"{name}: replaced"
        if others := fields(before, after, _OF_A_VARIABLE):
            yield f"{name}: changed in {listed(others)}"
