"""Shows what sidecars report, for people: a table, a summary, and the errors. All of it is untrusted text."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime

from datafile_sidecar.core.fleet_roster import OFF_TABLE_S
from datafile_sidecar.core.fleet_status import KeyStatus, SidecarStatus, StatusResponse, number, printable

SHOWN = 50
"""How many rows or sentences are shown; `--json` has all."""


def table(responses: Sequence[StatusResponse], sdk_key: str | None, now: float) -> list[str]:
    """Format the first fifty rows of the fleet as lines of text: first those with a problem, or with the oldest revision.

    Args:
        responses: Pods that are silent for long are left out.
        sdk_key: None for all keys.
        now: Unix seconds, for the ages in answers that don't give their own clock.
    """
    head = ("POD", "KEY", "REVISION", "TARGET", "CHECKED", "TRIGGER", "WORKERS")
    shown = [one for one in responses if one.silent_s is None or one.silent_s <= OFF_TABLE_S]
    if len(shown) > SHOWN:
        shown.sort(key=lambda one: (one.problem is None, _oldest(one)))
    found = [row for response in shown for row in _rows(response, sdk_key, now)]
    rows = [head, *found[:SHOWN]]
    widths = [max(len(row[column]) for row in rows if len(row) == len(head)) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip() for row in rows]
    return [*lines, *more(len(found))]


def more(count: int) -> list[str]:
    """Say that there are more than are shown, if there are."""
    return [f"… and {count - SHOWN:,} more: --json has all"] if count > SHOWN else []


def errors(responses: Iterable[StatusResponse], sdk_key: str | None) -> list[str]:
    """One sentence for each key whose sidecar reports an error.

    Args:
        sdk_key: None for all keys.
    """
    return [
        f"{response.label}: {printable(name)}: {printable(key.last_error)}"
        for response in responses
        if response.status
        for name, key in sorted(response.status.keys.items())
        if key.last_error and sdk_key in (None, name)
    ]


def _rows(response: StatusResponse, sdk_key: str | None, now: float) -> Iterator[tuple[str, ...]]:
    status = response.status
    if status is None:
        yield (response.endpoint, "–", f"{response.problem}")
        return
    if response.problem is not None:
        yield (printable(status.pod), "–", response.problem)
        return
    own_now = _unix_s(status.now)
    for name, key in sorted(status.keys.items()):
        if sdk_key in (None, name):
            cells = (status.pod, name, number(key.revision), number(key.target_revision))
            yield (
                *map(printable, (*cells, _age(key.checked, now if own_now is None else own_now), key.trigger or "–")),
                _workers(status, key),
            )


def _workers(status: SidecarStatus, key: KeyStatus) -> str:
    if status.workers.state != "on":
        return "unknown"
    counts = Counter[int]()
    for worker in key.workers:
        counts[worker.revision or 0] += worker.count
    parts = [f"{count} at {revision}" for revision, count in sorted(counts.items())]
    return ", ".join([*parts, *([] if status.workers.settled else ["more may connect"])]) or "none"


def _oldest(response: StatusResponse) -> int:
    keys = response.status.keys.values() if response.status else ()
    return min((key.revision or 0 for key in keys), default=0)


def _age(timestamp: str | None, now: float) -> str:
    at = _unix_s(timestamp)
    if at is None:
        return "–"
    seconds = now - at
    if seconds < -1:
        return "in the future"
    return f"{max(0.0, seconds):.0f} s ago" if seconds < 600 else f"{seconds / 60:.0f} min ago"


def _unix_s(timestamp: str | None) -> float | None:
    try:
        return datetime.fromisoformat(timestamp or "").astimezone(UTC).timestamp()
    except (ValueError, OverflowError):
        return None
