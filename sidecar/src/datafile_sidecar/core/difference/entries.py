"""The entries of a datafile by their ids, still as raw JSON: only those that differ are decoded whole.

Where several entries have one id, the one counts that counts for the SDK: the last.
"""

import json
from collections.abc import Iterable, Iterator
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


class _Rollout(Struct, gc=False):
    id: Scalar = None
    rules: list[RuleEntry] = field(name="experiments", default_factory=list)


class _Group(Struct, gc=False):
    id: Scalar = None
    experiments: list[Raw] = []


class _Audience(Struct, gc=False):
    id: Scalar = None


class _Keyed(Struct, gc=False):
    key: Scalar = None


_FLAG = msgspec.json.Decoder(FlagEntry)
_RULE = msgspec.json.Decoder(RuleEntry)
_ROLLOUT = msgspec.json.Decoder(_Rollout)
_GROUP = msgspec.json.Decoder(_Group)
_AUDIENCE = msgspec.json.Decoder(_Audience)
_KEYED = msgspec.json.Decoder(_Keyed)


@dataclass(frozen=True, slots=True)
class Entries:
    """One datafile. `rules` are the experiments, alone or in groups; `key_owner` is the id that the SDK finds by a rule's key."""

    top: dict[str, Raw]
    flags: dict[Scalar, tuple[FlagEntry, Raw]]
    rules: dict[Scalar, tuple[RuleEntry, Raw]]
    rollouts: dict[Scalar, tuple[list[RuleEntry], Raw]]
    groups: dict[Scalar, Raw]
    group_of: dict[Scalar, Scalar]
    audiences: dict[Scalar, Raw]
    key_owner: dict[Scalar, Scalar]

    @classmethod
    def of(cls, body: bytes) -> "Entries":
        """Find the entries of a valid datafile."""
        top = _TOP.decode(body)
        rules = {entry.id: (entry, raw) for entry, raw in _each(_RULE, raw_list(top, "experiments"))}
        rollouts = {one.id: (one.rules, raw) for one, raw in _each(_ROLLOUT, raw_list(top, "rollouts"))}
        keys = {entry.id: entry.key for entry, _ in rules.values()}
        keys |= {entry.id: entry.key for entries, _ in rollouts.values() for entry in entries}
        groups, group_of = {}, {}
        for group, raw in _each(_GROUP, raw_list(top, "groups")):
            groups[group.id] = raw
            for entry, experiment in _each(_RULE, group.experiments):
                rules[entry.id], group_of[entry.id], keys[entry.id] = (entry, experiment), group.id, entry.key
        holdouts = _each(_RULE, [*raw_list(top, "holdouts"), *raw_list(top, "localHoldouts")])
        return cls(
            top=top,
            flags={entry.key: (entry, raw) for entry, raw in _each(_FLAG, raw_list(top, "featureFlags"))},
            rules=rules,
            rollouts=rollouts,
            groups=groups,
            group_of=group_of,
            audiences={
                entry.id: raw
                for name in ("audiences", "typedAudiences")
                for entry, raw in _each(_AUDIENCE, raw_list(top, name))
            },
            key_owner={key: one for one, key in keys.items()} | {holdout.key: holdout.id for holdout, _ in holdouts},
        )

    def holdouts(self, name: str) -> list[tuple[RuleEntry, Raw]]:
        """Return the holdouts in one of their two lists, in its order."""
        return list(_each(_RULE, raw_list(self.top, name)))

    def keyed(self, name: str) -> dict[Scalar, Raw]:
        """Return the entries of a list by their keys."""
        return {entry.key: raw for entry, raw in _each(_KEYED, raw_list(self.top, name))}

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


def _each(decoder: "msgspec.json.Decoder[Any]", raws: Iterable[Raw]) -> Iterator[tuple[Any, Raw]]:
    return ((decoder.decode(raw), raw) for raw in raws)
