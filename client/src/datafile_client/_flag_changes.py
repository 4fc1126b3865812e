"""Which flags differ between two datafiles, with everything that decides about them: rules, groups, audiences, holdouts."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

_Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class FlagChanges:
    """The keys of flags that differ between two datafiles. A change of an audience or a group changes each flag that uses it.

    Attributes:
        added: flags that only the new datafile has; all of them where there was no datafile before.
        removed: flags that only the old one had.
        changed: flags of both that may decide otherwise.
    """

    added: frozenset[str]
    removed: frozenset[str]
    changed: frozenset[str]

    @classmethod
    def between(cls, before: Mapping[str, bytes], after: Mapping[str, bytes]) -> Self:
        """Compare what `flag_digests` returns of two datafiles."""
        common = before.keys() & after.keys()
        return cls(
            frozenset(after.keys() - before.keys()),
            frozenset(before.keys() - after.keys()),
            frozenset(key for key in common if before[key] != after[key]),
        )


def flag_digests(datafile: str) -> dict[str, bytes]:
    """Return for each flag's key a digest of all that decides about it. The datafile must be one that the SDK takes."""
    data: _Json = json.loads(datafile)
    parts = _Parts(data)
    return {str(flag["key"]): _digest(list(parts.of(flag))) for flag in data.get("featureFlags", [])}


def _digest(parts: list[Any]) -> bytes:
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16).digest()


class _Parts:
    """The parts of one datafile, by id."""

    def __init__(self, data: _Json) -> None:
        groups: list[_Json] = data.get("groups", [])
        self._group_of = {rule["id"]: group for group in groups for rule in group.get("experiments", [])}
        self._rules = _by_id(
            [*data.get("experiments", []), *(rule for one in groups for rule in one.get("experiments", []))]
        )
        self._rollouts = _by_id(data.get("rollouts", []))
        self._audiences = _by_id([*data.get("audiences", []), *data.get("typedAudiences", [])])
        self._holdouts: list[_Json] = data.get("holdouts", [])  # those of all flags
        self._holdouts_of: dict[Any, list[_Json]] = {}
        for holdout in data.get("localHoldouts", []):
            for rule in holdout.get("includedRules") or []:
                self._holdouts_of.setdefault(rule, []).append(holdout)

    def of(self, flag: _Json) -> Iterator[Any]:
        """Yield the flag and everything that decides about it."""
        rollout = self._rollouts.get(flag.get("rolloutId"), {})
        rules = [self._rules[one] for one in flag.get("experimentIds", []) if one in self._rules]
        rules += rollout.get("experiments", [])
        rules += [holdout for rule in rules for holdout in self._holdouts_of.get(rule["id"], [])]
        yield flag
        yield rollout
        for rule in [*rules, *self._holdouts]:
            yield rule
            yield self._group_of.get(rule["id"])
            conditions = rule.get("audienceConditions") or rule.get("audienceIds") or []
            yield [self._audiences.get(one) for one in _leaves(conditions)]


def _by_id(parts: Iterable[_Json]) -> dict[Any, _Json]:
    return {part["id"]: part for part in parts}


def _leaves(conditions: Any) -> Iterator[str]:
    """Yield the ids of audiences in nested lists of conditions; the operators between them are none of an audience."""
    if isinstance(conditions, list):
        for one in conditions:
            yield from _leaves(one)
    elif isinstance(conditions, str):
        yield conditions
