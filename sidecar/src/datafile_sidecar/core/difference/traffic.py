"""Traffic: which buckets of users a rule gives to which variation."""

from collections.abc import Mapping
from typing import Any

from datafile_sidecar.core.difference.wording import EVERYONE, named, percent

Segment = tuple[float, float, Any]


def segments(allocation: Any) -> list[Segment]:
    """Return the ranges of buckets, and the id that each goes to: the SDK takes the first range that ends above a bucket.

    What has no id or an end that is no number is left out.
    """
    found: list[Segment] = []
    edge: float = 0
    for one in allocation if isinstance(allocation, list) else []:
        if not _is_plain(one) or one["endOfRange"] <= edge or edge >= EVERYONE:
            continue
        start, edge = edge, min(one["endOfRange"], EVERYONE)
        if (entity := one["entityId"]) and found and found[-1][1:] == (start, entity):
            start = found.pop()[0]
        if entity:
            found.append((start, edge, entity))
    return found


def is_plain(allocation: Any) -> bool:
    """Tell whether `segments` leaves nothing out. The SDK takes anything for a delivery rule."""
    return isinstance(allocation, list) and all(map(_is_plain, allocation))


def share(found: list[Segment], entity: Any) -> float:
    """Return how many buckets go to this id."""
    return sum(end - start for start, end, one in found if one == entity)


def traffic_change(old: list[Segment], new: list[Segment], names: Mapping[Any, Any]) -> str | None:
    """Return in words how the traffic changes, None where each bucket goes where it went.

    Args:
        names: The key of each variation, by its id.
    """
    if _named(old, names) == _named(new, names):
        return None
    before, after = _shares(old, names), _shares(new, names)
    if before == after:
        return "traffic in the same shares, for other users"
    if len({*before, *after}) == 1:
        return f"traffic {percent(sum(before.values()))} → {percent(sum(after.values()))}"
    return f"traffic {_split(before)} → {_split(after)}"


def _is_plain(one: Any) -> bool:
    if not isinstance(one, dict) or not isinstance(one.get("endOfRange"), int | float):
        return False
    return isinstance(one.get("entityId"), str | int | float)


def _named(found: list[Segment], names: Mapping[Any, Any]) -> list[Segment]:
    return [(start, end, names[one]) for start, end, one in found]


def _shares(found: list[Segment], names: Mapping[Any, Any]) -> dict[str, float]:
    shares: dict[str, float] = {}
    for start, end, entity in found:
        name = named(names[entity])
        shares[name] = shares.get(name, 0) + end - start
    return shares


def _split(shares: dict[str, float]) -> str:
    return ", ".join(f"{name} {percent(buckets)}" for name, buckets in shares.items()) or "0 %"
