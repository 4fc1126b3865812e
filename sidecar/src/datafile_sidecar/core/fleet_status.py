"""What a sidecar says of itself on `/status`, as somebody else reads it: who in the fleet lags behind, and in a table.

Laws: nobody is taken to be up to date who has not said so; what a sidecar says is a stranger's text wherever it is shown.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

import msgspec

_Revision = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
_Text = Annotated[str, msgspec.Meta(max_length=4096)]
_MOST_SHOWN = 120


class MalformedReportError(ValueError):
    """An answer that is no `/status` of ours."""


class Worker(msgspec.Struct, frozen=True):
    """A process of the app, and the revision that it decides by; None while it has no datafile."""

    id: _Text
    pid: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
    host: _Text
    revision: _Revision | None

    def __str__(self) -> str:
        return f"worker {printable(self.id)} (pid {self.pid} on {printable(self.host)})"


class Key(msgspec.Struct, frozen=True):
    """One SDK key: what is on the volume, what should be, and the workers. `checked` is RFC 3339."""

    revision: _Revision | None = None
    target_revision: _Revision | None = None
    trigger: _Text | None = None
    checked: _Text | None = None
    last_error: _Text | None = None
    workers: tuple[Worker, ...] = ()


class Workers(msgspec.Struct, frozen=True):
    """Whether the lists of workers can be relied on. `last_error` says why there are none."""

    state: _Text = "off"
    settled: bool = False
    last_error: _Text | None = None


class Report(msgspec.Struct, frozen=True):
    """A sidecar's `/status`, as far as the fleet is concerned. `instance` tells whether two answers are of one process."""

    pod: _Text
    keys: dict[_Text, Key]
    instance: _Text | None = None
    workers: Workers = msgspec.field(default_factory=Workers)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of asking one place: a report, or in words why there is none."""

    place: str
    report: Report | None = None
    problem: str | None = None


def parse(body: bytes) -> Report:
    """The report in an answer's body. Raises MalformedReportError."""
    try:
        return _DECODER.decode(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as problem:
        raise MalformedReportError(f"it answers, but not as a sidecar does: {problem}") from None


def once(answers: Iterable[Answer]) -> list[Answer]:
    """The same without second answers of one sidecar, that was asked at two of its addresses."""
    seen: set[str] = set()
    kept = []
    for answer in answers:
        instance = answer.report.instance if answer.report else None
        if instance not in seen:
            kept.append(answer)
            seen |= {instance} if instance else set()
    return kept


def latest(answers: Iterable[Answer], sdk_key: str) -> int | None:
    """The newest revision that any sidecar has or waits for, None where nobody knows of one."""
    keys = (answer.report.keys.get(sdk_key) for answer in answers if answer.report)
    known = (revision for key in keys if key for revision in (key.revision, key.target_revision))
    return max((revision for revision in known if revision is not None), default=None)


def lagging(answers: Iterable[Answer], sdk_key: str, wanted: int | None, *, workers_needed: bool) -> list[str]:
    """A sentence for each who is not known to have applied the wanted revision or a newer one. With none wanted, all lag."""
    return [sentence for answer in answers for sentence in _lagging(answer, sdk_key, wanted, workers_needed)]


def table(answers: Sequence[Answer], sdk_key: str | None, now: float) -> list[str]:
    """The fleet as lines of text; only one key's, where one is named. `now` is Unix seconds."""
    head = ("POD", "KEY", "REVISION", "TARGET", "CHECKED", "WAY", "WORKERS")
    rows = [head, *(row for answer in answers for row in _rows(answer, sdk_key, now))]
    widths = [max(len(row[column]) for row in rows if len(row) == len(head)) for column in range(len(head))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip() for row in rows]


def complaints(answers: Iterable[Answer], sdk_key: str | None) -> list[str]:
    """A sentence for each key that something is wrong with, as its sidecar says; only one key's, where one is named."""
    keys = (
        (_named(answer), *item) for answer in answers if answer.report for item in sorted(answer.report.keys.items())
    )
    return [
        f"{pod}: {printable(name)}: {printable(key.last_error)}"
        for pod, name, key in keys
        if key.last_error and sdk_key in (None, name)
    ]


def printable(text: str) -> str:
    """A stranger's text, short, and unable to move the cursor or to break a line."""
    short = text if len(text) <= _MOST_SHOWN else text[: _MOST_SHOWN - 1] + "…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in short)


def _lagging(answer: Answer, sdk_key: str, wanted: int | None, workers_needed: bool) -> Iterator[str]:
    if answer.report is None:
        yield f"{answer.place}: {answer.problem}"
        return
    pod, key, workers = _named(answer), answer.report.keys.get(sdk_key), answer.report.workers
    if key is None:
        yield f"{pod}: does not serve this SDK key"
        return
    if not _has(key.revision, wanted):
        why = f": {printable(key.last_error)}" if key.last_error else ""
        yield f"{pod}: has {_at(key.revision)} on its volume{why}"
    for worker in key.workers:
        if not _has(worker.revision, wanted):
            yield f"{pod}: {worker} decides by {_at(worker.revision)}"
    if workers.state == "on" and not workers.settled:
        yield f"{pod}: waits for workers that may not have come back to it yet"
    elif workers_needed and workers.state != "on":
        yield f"{pod}: can't hear its workers: {printable(workers.last_error or 'no reason given')}"
    elif workers_needed and not key.workers:
        yield f"{pod}: no worker is connected"


def _has(revision: int | None, wanted: int | None) -> bool:
    return None not in (revision, wanted) and (revision or 0) >= (wanted or 0)


def _at(revision: int | None) -> str:
    return "no datafile" if revision is None else f"revision {revision}"


def _named(answer: Answer) -> str:
    return f"{printable(answer.report.pod)} ({answer.place})" if answer.report else answer.place


def _rows(answer: Answer, sdk_key: str | None, now: float) -> Iterator[tuple[str, ...]]:
    if answer.report is None:
        yield (answer.place, "–", f"{answer.problem}")
        return
    for name, key in sorted(answer.report.keys.items()):
        if sdk_key in (None, name):
            cells = (answer.report.pod, name, _number(key.revision), _number(key.target_revision))
            yield (*map(printable, (*cells, _age(key.checked, now), key.trigger or "–")), _workers(answer.report, key))


def _workers(report: Report, key: Key) -> str:
    if report.workers.state != "on":
        return "not heard"
    counts = dict.fromkeys(sorted({worker.revision or 0 for worker in key.workers}), 0)
    for worker in key.workers:
        counts[worker.revision or 0] += 1
    parts = [f"{count} at {revision}" for revision, count in counts.items()]
    return ", ".join([*parts, *([] if report.workers.settled else ["more may come"])]) or "none"


def _number(revision: int | None) -> str:
    return "–" if revision is None else str(revision)


def _age(moment: str | None, now: float) -> str:
    try:
        seconds = now - datetime.fromisoformat(moment or "").astimezone(UTC).timestamp()
    except (ValueError, OverflowError):
        return "–"
    return f"{max(0.0, seconds):.0f} s ago" if seconds < 600 else f"{seconds / 60:.0f} min ago"


_DECODER = msgspec.json.Decoder(Report)
