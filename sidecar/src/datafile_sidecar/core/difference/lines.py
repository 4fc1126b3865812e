"""The lines of a difference, the most important ones first."""

from collections.abc import Iterator
from typing import Any

from datafile_sidecar.core.difference.audiences import audience_lines
from datafile_sidecar.core.difference.entries import Entries
from datafile_sidecar.core.difference.flag import Flag, Reach, experiment, flag_changes
from datafile_sidecar.core.difference.holdouts import holdout_lines
from datafile_sidecar.core.difference.project import identity_lines, project_lines
from datafile_sidecar.core.difference.rule import rule_changes
from datafile_sidecar.core.difference.wording import listed, named

_MAX_EACH = 3
_MAX_DETAILED = 1000


def difference(before: bytes, after: bytes) -> list[str]:
    """Return in words what changes from one valid datafile to another, the most important first.

    It takes as long as some validations. The interpreter's lock is held for no longer than it takes to find the entries of one
    list: run it in a thread.
    """
    if before == after:
        return []
    old, new = Entries.of(before), Entries.of(after)
    return [
        *identity_lines(old, new),
        *_flag_lines(old, new),
        *_experiment_lines(old, new),
        *audience_lines(old, new),
        *holdout_lines(old, new),
        *project_lines(old, new),
    ]


def _flag_lines(old: Entries, new: Entries) -> Iterator[str]:
    added = [key for key in new.flags if key not in old.flags]
    removed = [key for key in old.flags if key not in new.flags]
    suspects = [key for key in new.flags if key in old.flags and _raw(key, old) != _raw(key, new)]
    reaches: dict[Reach, list[Any]] = {reach: [] for reach in Reach}
    details: list[str] = []
    for number, key in enumerate(suspects):
        before, after = Flag.of(key, old), Flag.of(key, new)
        if (reach := after.reach) is not before.reach:
            reaches[reach].append(key)
        if number < _MAX_DETAILED:
            details += (f"{named(key)}: {change}" for change in flag_changes(before, after))
    yield from _each("off for everyone", reaches[Reach.NOBODY])
    yield from _each("removed", removed)
    yield from _each("on for everyone", reaches[Reach.EVERYONE])
    yield from _each("on for some users", reaches[Reach.SOME])
    for reach in Reach:
        yield from _each(f"added, {reach.value}", [key for key in added if Flag.of(key, new).reach is reach])
    yield from details
    if len(suspects) > _MAX_DETAILED:
        yield f"details of {len(suspects) - _MAX_DETAILED} more flags are left out"


def _each(what: str, keys: list[Any]) -> Iterator[str]:
    """Yield a line for each of a few flags, or one for all of many."""
    if len(keys) > _MAX_EACH:
        yield f"{len(keys)} flags {what}: {listed(keys, _MAX_EACH)}"
    else:
        yield from (f"{named(key)}: {what}" for key in keys)


def _raw(key: Any, entries: Entries) -> list[Any]:
    """Return everything that decides about a flag beside audiences and holdouts, not decoded."""
    flag = entries.flag(key)
    rules = [_raw_rule(one, entries) for one in flag.experiment_ids if one in entries.rules]
    return [entries.flags[key], entries.rollouts.get(flag.rollout_id), rules]


def _raw_rule(one: Any, entries: Entries) -> tuple[Any, ...]:
    owner = entries.key_owner[entries.rule(one).key]
    return entries.rules[one], entries.groups.get(entries.group_of.get(one)), owner


def _experiment_lines(old: Entries, new: Entries) -> Iterator[str]:
    """Yield in words what changes in experiments that belong to no flag."""
    in_flags = {one for entries in (old, new) for key in entries.flags for one in entries.flag(key).experiment_ids}
    for one in (one for one in {**old.rules, **new.rules} if one not in in_flags):
        if one not in new.rules:
            yield f"experiment {named(old.rule(one).key)}: removed"
        elif one not in old.rules:
            rule = experiment(one, new)
            yield f"experiment {named(rule.key)}: added ({rule.describe()})"
        elif _raw_rule(one, old) != _raw_rule(one, new):
            changes = list(rule_changes(experiment(one, old), experiment(one, new), {}))
            if changes:
                yield f"experiment {named(new.rule(one).key)}: {'; '.join(changes)}"
