"""The difference of the holdouts of two datafiles."""

from collections.abc import Iterator
from typing import Any

from datafile_sidecar.core.difference.entries import Entries, decoded
from datafile_sidecar.core.difference.rule import RUNNING, Rule, rule_changes
from datafile_sidecar.core.difference.wording import named


def holdout_lines(before: Entries, after: Entries) -> Iterator[str]:
    """Yield in words what changes in the holdouts, of all flags and of single rules."""
    for name, what in (("holdouts", "holdout"), ("localHoldouts", "local holdout")):
        if before.top.get(name) == after.top.get(name):
            continue
        old, new = _numbered(before, name), _numbered(after, name)
        for one in {**old, **new}:
            if one not in new:
                yield f"{what} {named(old[one].key)}: removed"
            elif one not in old:
                status = "" if new[one].data.get("status") == RUNNING else ", not running"
                yield f"{what} {named(new[one].key)}: added ({new[one].describe()}{status})"
            elif old[one].data != new[one].data and (parts := list(rule_changes(old[one], new[one], {}))):
                yield f"{what} {named(new[one].key)}: {'; '.join(parts)}"
        if _order(old, new) != _order(new, old):
            yield f"order of {what}s changed"


def _numbered(entries: Entries, name: str) -> dict[tuple[Any, int], Rule]:
    """Return the holdouts by their ids. Each of several with one id counts, so they are numbered."""
    found: dict[tuple[Any, int], Rule] = {}
    for entry, raw in entries.holdouts(name):
        number = sum(one == entry.id for one, _ in found)
        found[entry.id, number] = Rule(decoded(raw), entries, is_delivery=True)
    return found


def _order(holdouts: dict[Any, Rule], others: dict[Any, Rule]) -> list[Any]:
    """Return the order in which the SDK tries the holdouts that run in both datafiles."""
    running = [one for one, rule in others.items() if rule.data.get("status") == RUNNING]
    return [one for one, rule in holdouts.items() if one in running and rule.data.get("status") == RUNNING]
