"""The entries of a datafile by their ids, still as raw JSON: only those that differ are decoded whole.

Where several entries have one id, the one counts that counts for the SDK: the last.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import Raw, Struct, field

from datafile_sidecar.core.datafile.schema import ABSENT, NO_ENTRIES, Scalar

_TOP = msgspec.json.Decoder(dict[str, Raw])
_LIST = msgspec.json.Decoder(list[Raw])


class FlagEntry(Struct, gc=False, rename="camel"):
    """What a flag refers to."""

    key: Scalar = None
    experiment_ids: list[Scalar] = []
    rollout_id: Scalar = None


class RuleEntry(Struct, gc=False, rename="camel"):
    """Which rule or holdout this is, and the audiences that it names."""

    id: Scalar = None
    key: Scalar = None
    audience_ids: Raw = ABSENT
    audience_conditions: Raw = ABSENT


class _Identified(Struct, gc=False):
    id: Scalar = None
    key: Scalar = None


class _Rollout(Struct, gc=False):
    rules: list[RuleEntry] = field(name="experiments", default_factory=list)


class _Group(Struct, gc=False):
    id: Scalar = None
    experiments: list[Raw] = []


_FLAG = msgspec.json.Decoder(FlagEntry)
_RULE = msgspec.json.Decoder(RuleEntry)
_IDENTIFIED = msgspec.json.Decoder(_Identified)
_ROLLOUT = msgspec.json.Decoder(_Rollout)
_GROUP = msgspec.json.Decoder(_Group)


@dataclass(frozen=True, slots=True)
class Entries:
    """One datafile. `rules` are the experiments, alone or in groups; `key_owner` is the id that the SDK finds by a rule's key.

    Only references to the text are kept for each entry, so that a comparison takes little more memory than both texts.
    """

    top: dict[str, Raw]
    flags: dict[Scalar, Raw]
    rules: dict[Scalar, Raw]
    rollouts: dict[Scalar, Raw]
    groups: dict[Scalar, Raw]
    group_of: dict[Scalar, Scalar]
    audiences: dict[Scalar, Raw]
    key_owner: dict[Scalar, Scalar]

    @classmethod
    def of(cls, body: bytes) -> "Entries":
        """Find the entries of a valid datafile."""
        top = _TOP.decode(body)
        rules, groups, group_of = _by_id(raw_list(top, "experiments")), {}, {}
        alone = list(rules)
        for raw in raw_list(top, "groups"):
            group = _GROUP.decode(raw)
            groups[group.id] = raw
            for one, experiment in _by_id(group.experiments).items():
                rules[one], group_of[one] = experiment, group.id
        rollouts = _by_id(raw_list(top, "rollouts"))
        return cls(
            top=top,
            flags={_IDENTIFIED.decode(raw).key: raw for raw in raw_list(top, "featureFlags")},
            rules=rules,
            rollouts=rollouts,
            groups=groups,
            group_of=group_of,
            audiences=_by_id([*raw_list(top, "audiences"), *raw_list(top, "typedAudiences")]),
            key_owner=_key_owner(top, alone, rules, rollouts),
        )

    def flag(self, key: Scalar) -> FlagEntry:
        """Return what a flag refers to."""
        return _FLAG.decode(self.flags[key])

    def rule(self, one: Scalar) -> RuleEntry:
        """Return which experiment this is, and its audiences."""
        return _RULE.decode(self.rules[one])

    def delivery_rules(self, rollout: Scalar) -> list[RuleEntry]:
        """Return the delivery rules of a rollout, none where there is no such rollout."""
        return _ROLLOUT.decode(self.rollouts[rollout]).rules if rollout in self.rollouts else []

    def holdouts(self, name: str) -> list[tuple[RuleEntry, Raw]]:
        """Return the holdouts in one of their two lists, in its order."""
        return [(_RULE.decode(raw), raw) for raw in raw_list(self.top, name)]

    def keyed(self, name: str) -> dict[Scalar, Raw]:
        """Return the entries of a list by their keys."""
        return {_IDENTIFIED.decode(raw).key: raw for raw in raw_list(self.top, name)}

    def audience_name(self, audience: Any) -> Any:
        """Return the name of an audience, or its id where it has none."""
        raw = self.audiences.get(audience) if isinstance(audience, str) else None
        return (decoded(raw).get("name") if raw else None) or audience


def raw_list(top: dict[str, Raw], name: str) -> list[Raw]:
    """Return the entries of one of the lists, none where it is absent or null."""
    return _LIST.decode(top.get(name, NO_ENTRIES))


def decoded(raw: Raw) -> Any:
    """Decode one entry, as the SDK does it."""
    return json.loads(bytes(raw))


def _by_id(raws: Iterable[Raw]) -> dict[Scalar, Raw]:
    return {_IDENTIFIED.decode(raw).id: raw for raw in raws}


def _key_owner(
    top: dict[str, Raw], alone: list[Scalar], rules: dict[Scalar, Raw], rollouts: dict[Scalar, Raw]
) -> dict[Scalar, Scalar]:
    """Return the id that the SDK finds by the key of each experiment: it enters those alone, delivery rules, those in groups, then
    holdouts, and the last one counts. Other keys are left out."""
    keys = {one: _IDENTIFIED.decode(raw).key for one, raw in rules.items()}
    wanted = set(keys.values())
    entered = {one: keys[one] for one in alone}
    for raw in rollouts.values():
        entered |= {rule.id: rule.key for rule in _ROLLOUT.decode(raw).rules if rule.key in wanted or rule.id in keys}
    owners = {key: one for one, key in (entered | keys).items()}
    for name in ("holdouts", "localHoldouts"):
        owners |= {one.key: one.id for one in map(_IDENTIFIED.decode, raw_list(top, name)) if one.key in wanted}
    return owners
