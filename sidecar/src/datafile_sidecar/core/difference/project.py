"""The difference of what two datafiles say of their project: its settings, events, attributes and integrations."""

from collections.abc import Iterator
from typing import Any

from msgspec import Raw

from datafile_sidecar.core.difference.entries import Entries, decoded
from datafile_sidecar.core.difference.wording import canonical, fields, listed, named, valued

_IDENTITY = {"version": "version", "accountId": "account", "projectId": "project", "environmentKey": "environment"}
_SETTINGS = {
    "botFiltering": ("bot filtering", None),
    "anonymizeIP": ("anonymising of IP addresses", False),
    "sendFlagDecisions": ("impressions of flag decisions", False),
    "region": ("region", "US"),
}
_LISTS = {"events": "event", "attributes": "attribute", "integrations": "integration"}
_ELSEWHERE = {
    *("revision", "sdkKey", "featureFlags", "experiments", "groups", "rollouts", "audiences", "typedAudiences"),
    *("holdouts", "localHoldouts", *_IDENTITY, *_SETTINGS, *_LISTS),
}


def identity_lines(before: Entries, after: Entries) -> Iterator[str]:
    """Yield a line for each sign that this is another project's datafile."""
    for name, what in _IDENTITY.items():
        old, new = (_value(entries.top.get(name), None) for entries in (before, after))
        if canonical(old) != canonical(new):
            yield f"{what} {valued(old)} → {valued(new)}"


def project_lines(before: Entries, after: Entries) -> Iterator[str]:
    """Yield in words what changes beside flags, rules, audiences and holdouts."""
    for name, (what, default) in _SETTINGS.items():
        old, new = (_value(entries.top.get(name), default) for entries in (before, after))
        if canonical(old) != canonical(new):
            yield f"{what} {valued(old)} → {valued(new)}"
    for name, what in _LISTS.items():
        yield from _list_lines(what, before.keyed(name), after.keyed(name))
    for name in sorted({**before.top, **after.top}.keys() - _ELSEWHERE):
        old, new = (_value(entries.top.get(name), None) for entries in (before, after))
        if canonical(old) != canonical(new):
            yield f"changed in {named(name)}"


def _list_lines(what: str, old: dict[Any, Raw], new: dict[Any, Raw]) -> Iterator[str]:
    for keys, verb in (
        ([key for key in new if key not in old], "added"),
        ([key for key in old if key not in new], "removed"),
    ):
        if keys:
            yield f"{what}{'s' if len(keys) > 1 else ''} {listed(keys)} {verb}"
    for key in (key for key in new if key in old):
        # Field names only: an integration has keys.
        if old[key] != new[key] and (names := fields(decoded(old[key]), decoded(new[key]), ())):
            yield f"{what} {named(key)} changed in {listed(names)}"


def _value(raw: Raw | None, default: Any) -> Any:
    value = decoded(raw) if raw is not None else None
    return default if value is None else value
