"""The difference of one rule, an experiment or a delivery rule, in two datafiles."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from datafile_sidecar.core.difference.audiences import audience_change, conditions_of, whom
from datafile_sidecar.core.difference.entries import Entries
from datafile_sidecar.core.difference.traffic import Segment, is_plain, segments, share, traffic_change
from datafile_sidecar.core.difference.wording import EVERYONE, canonical, fields, listed, named, percent, value_change

RUNNING = "Running"
_STATUSES = {RUNNING: "started", "Paused": "paused", "Completed": "ended", "Concluded": "ended", "Archived": "archived"}
_DESCRIBED = (
    *("id", "key", "status", "audienceIds", "audienceConditions", "variations", "trafficAllocation"),
    *("forcedVariations", "cmab"),
)
_OF_A_VARIATION = ("id", "key", "featureEnabled", "variables")


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of a datafile. `group` is the mutually exclusive group of an experiment, None where it is in none."""

    data: dict[str, Any]
    entries: Entries
    is_delivery: bool = False
    is_last: bool = False
    group: dict[str, Any] | None = None

    @property
    def key(self) -> Any:
        """The rule's key."""
        return self.data.get("key")

    @property
    def label(self) -> str:
        """What the rule is called in a line about its flag."""
        is_default = self.is_delivery and self.is_last and conditions_of(self.data) == []
        return "everyone else" if is_default else f"rule {named(self.key)}"

    @property
    def variations(self) -> dict[Any, dict[str, Any]]:
        """The variations by id. Of several with one key or id, the last counts."""
        by_key = {one.get("key"): one for one in dicts(self.data.get("variations"))}
        return {one.get("id"): one for one in by_key.values()}

    @property
    def names(self) -> dict[Any, Any]:
        """The keys of the variations by their ids."""
        return {one: variation.get("key") for one, variation in self.variations.items()}

    @property
    def traffic(self) -> list[Segment]:
        """Which buckets get which variation; of a contextual bandit, which buckets take part in it."""
        if cmab := _dict(self.data.get("cmab")):
            return segments([{"entityId": "$", "endOfRange": cmab.get("trafficAllocation")}])
        known = self.variations
        return [one for one in segments(self.data.get("trafficAllocation")) if one[2] in known]

    @property
    def reachable(self) -> list[dict[str, Any]]:
        """The variations that some user gets, by traffic or by force."""
        if not self.is_delivery and self.data.get("status") != RUNNING:
            return []
        traffic, variations = self.traffic, self.variations
        if _dict(self.data.get("cmab")):
            return list(variations.values()) if traffic else self._forced(variations)
        found = [variation for one, variation in variations.items() if share(traffic, one)]
        return found + ([] if self.is_delivery else self._forced(variations))

    def _forced(self, variations: dict[Any, dict[str, Any]]) -> list[dict[str, Any]]:
        keys = [one for one in _dict(self.data.get("forcedVariations")).values() if isinstance(one, str)]
        return [variation for variation in variations.values() if variation.get("key") in keys]

    @property
    def is_on_for_everyone(self) -> bool:
        """Whether every user gets an enabled variation of this rule."""
        traffic, variations = self.traffic, self.variations
        known = sum(share(traffic, one) for one in variations)
        is_whole = known == EVERYONE and conditions_of(self.data) == []
        return is_whole and all(is_enabled(one) for one in self.reachable)

    def describe(self) -> str:
        """Return in words what this rule does."""
        enabled = {is_enabled(one) for one in self.reachable}
        parts = ["on and off" if len(enabled) > 1 else "on" if True in enabled else "off"]
        known = sum(share(self.traffic, one) for one in ("$", *self.variations))
        if known < EVERYONE:
            parts.append(percent(known))
        return ", ".join([*parts, f"for {whom(self.data, self.entries)}"])


def dicts(value: Any) -> list[dict[str, Any]]:
    """Return the objects of a list, none where it is something else: the SDK takes much."""
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def is_enabled(variation: dict[str, Any]) -> bool:
    """Tell whether a flag is on for those who get this variation."""
    return bool(variation.get("featureEnabled"))


def rule_changes(old: Rule, new: Rule, variables: dict[Any, Any]) -> Iterator[str]:
    """Yield in words what changes in a rule.

    Args:
        variables: The keys of its flag's variables, by their ids.
    """
    before, after = old.data, new.data
    if before.get("key") != after.get("key"):
        yield f"renamed from {named(before.get('key'))}"
    if (status := after.get("status")) != before.get("status"):
        yield _STATUSES.get(status, f"status {named(status)}") if isinstance(status, str) else f"status {named(status)}"
    if (is_on := _switched(old, new)) is not None:
        yield "on" if is_on else "off"
    yield from _traffic_changes(old, new)
    if (audiences := audience_change(before, after, old.entries, new.entries)) is not None:
        yield audiences
    yield from _variation_changes(old, new, variables, is_on)
    if (forced := _forced_change(old, new)) is not None:
        yield forced
    if (group := _group_change(old, new)) is not None:
        yield group
    if others := fields(before, after, _DESCRIBED):
        yield f"changed in {listed(others)}"


def _switched(old: Rule, new: Rule) -> bool | None:
    """Return whether a rule is on now for all whom it was off for, or the other way round; None where neither is so."""
    was, now = ({is_enabled(one) for one in rule.reachable} for rule in (old, new))
    return True in now if len(was) == len(now) == 1 and was != now else None


def _traffic_changes(old: Rule, new: Rule) -> Iterator[str]:
    before, after = _dict(old.data.get("cmab")), _dict(new.data.get("cmab"))
    if bool(before) != bool(after):
        yield "now a contextual bandit" if after else "no longer a contextual bandit"
        return
    names = {**old.names, **new.names} | ({"$": "$"} if after else {})
    if (change := traffic_change(old.traffic, new.traffic, names)) is not None:
        yield change
    elif _has_other_allocation(old.data.get("trafficAllocation"), new.data.get("trafficAllocation"), bool(after)):
        yield "changed in trafficAllocation"
    if others := fields(before, after, ["trafficAllocation"] if change else []):
        yield f"changed in the bandit's {listed(others)}"


def _has_other_allocation(old: Any, new: Any, is_bandit: bool) -> bool:
    """Tell whether the traffic differs in what has no words: in what is no number, or below a bandit, for SDKs that know none."""
    if is_bandit or not (is_plain(old) and is_plain(new)):
        return canonical(old) != canonical(new)
    return False


def _variation_changes(old: Rule, new: Rule, variables: dict[Any, Any], is_on: bool | None) -> Iterator[str]:
    before, after = old.variations, new.variations
    added, removed = ([after[one].get("key") for one in after if one not in before], _missing(before, after))
    for what, keys in (
        ("replaced", [key for key in added if key in removed]),
        ("added", [key for key in added if key not in removed]),
        ("removed", [key for key in removed if key not in added]),
    ):
        if keys:
            yield f"variation{'s' if len(keys) > 1 else ''} {listed(keys)} {what}"
    for one in (one for one in after if one in before):
        parts = list(_one_variation(before[one], after[one], variables))
        if is_enabled(before[one]) != (now := is_enabled(after[one])) and is_on is not now:
            parts.insert(0, "on" if now else "off")
        if parts:
            yield f"variation {named(after[one].get('key'))}: {', '.join(parts)}"


def _missing(before: dict[Any, dict[str, Any]], after: dict[Any, Any]) -> list[Any]:
    return [variation.get("key") for one, variation in before.items() if one not in after]


def _one_variation(old: dict[str, Any], new: dict[str, Any], variables: dict[Any, Any]) -> Iterator[str]:
    if old.get("key") != new.get("key"):
        yield f"renamed from {named(old.get('key'))}"
    was, now = _values(old), _values(new)
    for one in {**was, **now}:
        if canonical(was.get(one)) != canonical(now.get(one)):
            change = value_change(*(values.get(one, "its default") for values in (was, now)))
            yield f"{named(variables.get(one, one))} {change}"
    if others := fields(old, new, _OF_A_VARIATION):
        yield f"changed in {listed(others)}"


def _values(variation: dict[str, Any]) -> dict[Any, Any]:
    return {one.get("id"): one.get("value") for one in dicts(variation.get("variables"))}


def _forced_change(old: Rule, new: Rule) -> str | None:
    before, after = _dict(old.data.get("forcedVariations")), _dict(new.data.get("forcedVariations"))
    differ = [user for user in {**before, **after} if before.get(user) != after.get(user)]
    if len(before) != len(after):
        return f"forced users {len(before)} → {len(after)}"
    if differ:
        return f"{len(differ)} of {len(after)} forced users changed"
    # The SDK looks their variation up by the key of the rule, which may be another rule's, too.
    owners = [rule.entries.key_owner.get(rule.key) for rule in (old, new)]
    return f"{len(after)} forced users changed" if after and owners[0] != owners[1] else None


def _group_change(old: Rule, new: Rule) -> str | None:
    was, now = _group_share(old), _group_share(new)
    if was == now:
        return None
    if now is None:
        return "no longer in an exclusion group"
    if was is None:
        return f"now in an exclusion group, share {percent(_width(now))}"
    if _width(was) != _width(now):
        return f"share of its exclusion group {percent(_width(was))} → {percent(_width(now))}"
    return "other users of its exclusion group"


def _group_share(rule: Rule) -> tuple[Any, list[Segment]] | None:
    if not rule.group or rule.group.get("policy") != "random":
        return None
    found = segments(rule.group.get("trafficAllocation"))
    return rule.group.get("id"), [one for one in found if one[2] == rule.data.get("id")]


def _width(group_share: tuple[Any, Iterable[Segment]]) -> float:
    return sum(end - start for start, end, _ in group_share[1])


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
