"""Audiences: whom a rule is for, and which of them changed."""

import json
from collections.abc import Iterator
from typing import Any

from msgspec import Raw

from datafile_sidecar.core.difference.entries import Entries, RuleEntry, decoded
from datafile_sidecar.core.difference.wording import canonical, listed, named

_OPERATORS = ("and", "or", "not")


def normalised(conditions: Any) -> Any:
    """Return the same value for conditions that differ only in the order of what `and` and `or` combine."""
    if not isinstance(conditions, list) or not conditions:
        return conditions
    operator, *operands = conditions if conditions[0] in _OPERATORS else ["or", *conditions]
    operands = [normalised(one) for one in operands]
    # The SDK fails on an empty list, unless it has decided before it gets there.
    if operator != "not" and [] not in operands:
        operands.sort(key=canonical)
    return [operator, *operands]


def conditions_of(rule: dict[str, Any]) -> Any:
    """Return whom a rule is for: conditions on audiences, or an empty list for everyone."""
    conditions = rule.get("audienceConditions")
    conditions = rule.get("audienceIds") if conditions is None else conditions
    return [] if conditions is None else normalised(conditions)


def whom(rule: dict[str, Any], entries: Entries) -> str:
    """Return in words whom a rule is for."""
    match conditions_of(rule):
        case []:
            return "everyone"
        case ["or", *audiences] if all(isinstance(one, str) for one in audiences):
            return " or ".join(sorted(named(entries.audience_name(one)) for one in audiences[:3])) + (
                f" or {len(audiences) - 3} more" if len(audiences) > 3 else ""
            )
        case _:
            return "a combination of audiences"


def audience_change(old: dict[str, Any], new: dict[str, Any], before: Entries, after: Entries) -> str | None:
    """Return in words how the audiences of a rule change, None where they are the same."""
    if canonical(conditions_of(old)) == canonical(conditions_of(new)):
        return None
    was, now = whom(old, before), whom(new, after)
    return "audience conditions changed" if was == now else f"for {now} instead of {was}"


def audience_lines(before: Entries, after: Entries) -> Iterator[str]:
    """Yield a line for each audience whose conditions changed, and that something uses."""
    changed = [
        one
        for one in {**before.audiences, **after.audiences}
        if _has_changed(before.audiences.get(one), after.audiences.get(one))
    ]
    if not changed:
        return
    users = [_users(before), _users(after)]
    for one in changed:
        names = list(dict.fromkeys(name for using in users for name in using.get(one, ())))
        if names:
            name = named((after if one in after.audiences else before).audience_name(one))
            what = "conditions changed" if one in before.audiences and one in after.audiences else "added"
            yield f"audience {name}: {what if one in after.audiences else 'removed'} (used by {listed(names)})"


def _has_changed(old: Raw | None, new: Raw | None) -> bool:
    return old != new and _conditions(old) != _conditions(new)


def _conditions(raw: Raw | None) -> str | None:
    if raw is None:
        return None
    conditions = decoded(raw).get("conditions")
    return canonical(normalised(json.loads(conditions) if isinstance(conditions, str) else conditions))


def _users(entries: Entries) -> dict[Any, list[Any]]:
    """Return the keys of what uses each audience: flags, holdouts, and experiments without a flag."""
    users: dict[Any, list[Any]] = {}
    in_flags: set[Any] = set()
    for key in entries.flags:
        flag = entries.flag(key)
        in_flags.update(flag.experiment_ids)
        rules = [entries.rule(one) for one in flag.experiment_ids if one in entries.rules]
        for rule in (*rules, *entries.delivery_rules(flag.rollout_id)):
            _note(users, rule, key)
    others = [entries.rule(one) for one in entries.rules if one not in in_flags]
    holdouts = [one for name in ("holdouts", "localHoldouts") for one, _ in entries.holdouts(name)]
    for one in (*others, *holdouts):
        _note(users, one, one.key)
    return users


def _note(users: dict[Any, list[Any]], rule: RuleEntry, key: Any) -> None:
    for raw in (rule.audience_ids, rule.audience_conditions):
        for audience in _leaves(json.loads(bytes(raw) or b"null")):
            users.setdefault(audience, []).append(key)


def _leaves(conditions: Any) -> Iterator[Any]:
    if isinstance(conditions, list):
        for one in conditions:
            yield from _leaves(one)
    elif not isinstance(conditions, dict) and conditions not in _OPERATORS:
        yield conditions
