"""How names, values and shares are written, and how many lines are bounded."""

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from datafile_sidecar.core.display_text import printable, shorten

EVERYONE = 10_000
"""The buckets of all users: traffic is counted in hundredths of a percent."""
_MAX_NAME = 60
_MAX_VALUE = 40
_PLAIN = re.compile(r"[\w.$/+-]+")
_SAFE_VALUE = re.compile(r"true|false|-?[0-9]{1,20}(\.[0-9]{1,20})?|its default")
_MORE_SIZE = len('"and 999999 more"')


def named(name: object) -> str:
    """Return a name as it may be shown: in quotes, unless it is one plain word."""
    return _shown(name, _MAX_NAME)


def valued(value: object) -> str:
    """Return the value of a setting as it may be shown."""
    match value:
        case None:
            return "not set"
        case True | False:
            return "on" if value else "off"
        case _:
            return _shown(value, _MAX_VALUE)


def value_change(old: object, new: object) -> str:
    """Return in words how the value of a variable changes. Only numbers and booleans are shown: a text may be anything."""
    values = [str(one) if isinstance(one, str) and _SAFE_VALUE.fullmatch(one) else "a text" for one in (old, new)]
    return "changed" if values[0] == values[1] else f"{values[0]} → {values[1]}"


def percent(buckets: float) -> str:
    """Return a number of buckets as a share of all users."""
    return f"{buckets / (EVERYONE / 100):g} %"


def listed(names: Sequence[object], most: int = 3) -> str:
    """Return the first names, and how many there are beside them."""
    shown = ", ".join(named(name) for name in names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def canonical(value: Any) -> str:
    """Return the same text for the same JSON value, whatever the order of its fields was."""
    return json.dumps(value, sort_keys=True)


def fields(old: dict[str, Any], new: dict[str, Any], described: Iterable[str]) -> list[str]:
    """Return the names of the fields that differ, without those that are described otherwise."""
    others = {**old, **new}.keys() - set(described)
    return sorted(name for name in others if canonical(old.get(name)) != canonical(new.get(name)))


def summary(lines: Sequence[str], *, max_lines: int, max_bytes: int) -> list[str]:
    """Return the first lines, and in one more how many are left out.

    Args:
        max_lines: How many lines there may be, at least 2.
        max_bytes: How long they may be together, as strings in JSON: at least 100.
    """
    if len(lines) <= max_lines and sum(map(_size, lines)) <= max_bytes:
        return list(lines)
    kept: list[str] = []
    room = max_bytes - _MORE_SIZE
    for line in lines[: max_lines - 1]:
        if _size(line) > room:
            break
        kept.append(line)
        room -= _size(line)
    if not kept:
        kept = [_cut(lines[0], room)]
    return [*kept, f"and {len(lines) - len(kept)} more"] if len(kept) < len(lines) else kept


def _shown(value: object, limit: int) -> str:
    text = value if isinstance(value, str) else canonical(value)
    text = shorten(printable(shorten(text, limit)), limit)
    return text if _PLAIN.fullmatch(text) else '"' + text.replace('"', "'") + '"'


def _size(line: str) -> int:
    return len(msgspec.json.encode(line))


def _cut(line: str, room: int) -> str:
    while _size(line) > room:
        line = shorten(line, len(line) - max(1, (_size(line) - room) // 4))
    return line
