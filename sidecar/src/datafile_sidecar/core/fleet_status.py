"""Reads the `/status` of other sidecars, shows it as a table, and finds those that lag behind.

Two rules: only a sidecar or worker that has confirmed a revision counts as up to date, and all text from `/status` is
untrusted wherever it is shown.
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

import msgspec

_Revision = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
_Text = Annotated[str, msgspec.Meta(max_length=4096)]
_Pid = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
_MAX_SHOWN = 120


class InvalidStatusError(ValueError):
    """The answer is not the `/status` of a sidecar."""


class RefusalStatus(msgspec.Struct, frozen=True):
    """Why a worker can't use a datafile, and its revision; None where that is not the one on the volume now."""

    reason: _Text
    revision: _Revision | None = None


class WorkerStatus(msgspec.Struct, frozen=True):
    """A process of the app, and what it uses: revision and beginning of the digest, None while it has no datafile."""

    id: _Text
    pid: _Pid
    host: _Text
    revision: _Revision | None
    sha256: _Text | None = None
    refused: RefusalStatus | None = None

    def __str__(self) -> str:
        uses = "has no datafile" if self.revision is None else f"uses revision {self.revision}"
        if self.refused:
            which = "what was published" if self.refused.revision is None else f"revision {self.refused.revision}"
            uses = f"can't use {which}: {printable(self.refused.reason)}; it {uses}"
        return f"worker {printable(self.id)} (pid {self.pid} on {printable(self.host)}) {uses}"

    def has_other_bytes(self, key: "KeyStatus") -> bool:
        """Tell whether this is the revision on the volume with other bytes: another datafile."""
        is_known = self.revision == key.revision and self.sha256 and key.sha256
        return bool(is_known) and not (key.sha256 or "").startswith(self.sha256 or "")


class UnreportedStatus(msgspec.Struct, frozen=True):
    """A process that holds a lock on the directory and has no connection."""

    id: _Text
    pid: Annotated[int, msgspec.Meta(ge=0, le=2**62)]

    def __str__(self) -> str:
        return (
            f"worker {printable(self.id)} (pid {self.pid}) lives and does not report: is it stopped, or just starting?"
        )


class KeyStatus(msgspec.Struct, frozen=True):
    """One SDK key: revision and generation on the volume, the target revision, and the workers. `checked` is RFC 3339."""

    revision: _Revision | None = None
    target_revision: _Revision | None = None
    generation: _Revision | None = None
    trigger: _Text | None = None
    checked: _Text | None = None
    last_error: _Text | None = None
    sha256: _Text | None = None
    workers: tuple[WorkerStatus, ...] = ()


class WorkersStatus(msgspec.Struct, frozen=True):
    """Whether the lists of workers are complete. `last_error` says why they may not be."""

    state: _Text = "off"
    settled: bool = False
    presence: _Text = "connections"
    unreported: tuple[UnreportedStatus, ...] = ()
    last_error: _Text | None = None


class SidecarStatus(msgspec.Struct, frozen=True):
    """The parts of `/status` that concern the fleet. `instance` identifies the process, `now` is its clock (RFC 3339)."""

    pod: _Text
    keys: dict[_Text, KeyStatus]
    instance: _Text | None = None
    now: _Text | None = None
    workers: WorkersStatus = msgspec.field(default_factory=WorkersStatus)
    status_version: _Revision | None = None

    @property
    def is_told(self) -> bool:
        """Whether this sidecar can tell when its workers change: only a look shows that a process without a report has ended."""
        is_known = self.workers.settled and self.workers.presence != "unknown"
        return self.status_version is not None and is_known and not self.workers.unreported


@dataclass(frozen=True, slots=True)
class StatusResponse:
    """The result of asking one endpoint: a status, or the problem with it.

    `is_peer` means that a sidecar of its own is expected there, and `peer_ports` are the webhook ports that are known of it. It
    is asked at `url`.
    """

    endpoint: str
    status: SidecarStatus | None = None
    problem: str | None = None
    peer_ports: frozenset[int] = frozenset()
    is_peer: bool = False
    url: str = ""


def parse(body: bytes) -> SidecarStatus:
    """Parse a response body. Raises InvalidStatusError."""
    try:
        return _DECODER.decode(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise InvalidStatusError(f"answers, but not with a sidecar's status: {error}") from None


def identity(status: SidecarStatus) -> tuple[str, str] | None:
    """Return what only one sidecar has, None when the answer does not say. A copied process has the same instance."""
    return (status.instance, status.pod) if status.instance else None


def deduplicate(responses: Iterable[StatusResponse]) -> list[StatusResponse]:
    """Keep one response of each sidecar, which may have been asked at several of its addresses, and any that says otherwise."""
    seen: set[tuple[Hashable, ...]] = set()
    kept = []
    for response in responses:
        sidecar = identity(response.status) if response.status else None
        if response.status is None or sidecar is None:
            kept.append(response)
            continue
        said = (sidecar, response.status.workers, *map(_proof, sorted(response.status.keys.items())))
        if said not in seen:
            kept.append(response)
            seen.add(said)
    return kept


def _proof(key: tuple[str, KeyStatus]) -> Hashable:
    name, status = key
    return name, status.revision, status.sha256, status.target_revision, status.workers


def latest_revision(responses: Iterable[StatusResponse], sdk_key: str) -> int | None:
    """The newest revision that any sidecar has or expects, None when no sidecar knows one."""
    keys = (response.status.keys.get(sdk_key) for response in responses if response.status)
    revisions = (revision for key in keys if key for revision in (key.revision, key.target_revision))
    return max((revision for revision in revisions if revision is not None), default=None)


def lagging(
    responses: Iterable[StatusResponse], sdk_key: str, wanted: int | None, *, workers_required: bool
) -> list[str]:
    """One sentence for each sidecar or worker that has not confirmed the wanted revision or a newer one.

    Args:
        wanted: with None, every sidecar and worker lags.
    """
    responses = list(responses)
    behind = [sentence for response in responses for sentence in _lagging(response, sdk_key, wanted, workers_required)]
    return behind + _other_bytes(responses, sdk_key)


def table(responses: Sequence[StatusResponse], sdk_key: str | None, now: float) -> list[str]:
    """Format the fleet as lines of text.

    Args:
        sdk_key: None for all keys.
        now: Unix seconds, for the ages in answers that don't give their own clock.
    """
    head = ("POD", "KEY", "REVISION", "TARGET", "CHECKED", "TRIGGER", "WORKERS")
    rows = [head, *(row for response in responses for row in _rows(response, sdk_key, now))]
    widths = [max(len(row[column]) for row in rows if len(row) == len(head)) for column in range(len(head))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip() for row in rows]


def errors(responses: Iterable[StatusResponse], sdk_key: str | None) -> list[str]:
    """One sentence for each key whose sidecar reports an error.

    Args:
        sdk_key: None for all keys.
    """
    return [
        f"{_label(response)}: {printable(name)}: {printable(key.last_error)}"
        for response in responses
        if response.status
        for name, key in sorted(response.status.keys.items())
        if key.last_error and sdk_key in (None, name)
    ]


def printable(text: str) -> str:
    """Shorten untrusted text, and escape what could move the cursor or break a line."""
    short = text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 1] + "…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in short)


def _lagging(response: StatusResponse, sdk_key: str, wanted: int | None, workers_required: bool) -> Iterator[str]:
    if response.status is None:
        yield f"{response.endpoint}: {response.problem}"
        return
    pod, key, workers = _label(response), response.status.keys.get(sdk_key), response.status.workers
    if key is None:
        yield f"{pod}: does not serve this SDK key"
        return
    if not _has_reached(key.revision, wanted):
        revision = "no datafile" if key.revision is None else f"revision {key.revision}"
        cause = f": {printable(key.last_error)}" if key.last_error else ""
        yield f"{pod}: has {revision} on its volume{cause}"
    yield from (f"{pod}: {sentence}" for worker in key.workers if (sentence := _behind(worker, key, wanted)))
    yield from (f"{pod}: {one}" for one in workers.unreported)
    if (doubt := _doubt(workers)) is not None:
        yield f"{pod}: {doubt}"
    elif workers_required and not key.workers:
        yield f"{pod}: no worker is connected"


def _behind(worker: WorkerStatus, key: KeyStatus, wanted: int | None) -> str | None:
    """Say that a worker has not confirmed the revision, or does not use what is on the volume; None where it does both."""
    if worker.refused or not _has_reached(worker.revision, wanted):
        return str(worker)
    if worker.has_other_bytes(key):
        return f"{worker}, but with other bytes than the volume has"
    # The second: it has not followed a rollback.
    follows = not _has_reached(key.revision, wanted) or _has_reached(key.revision, worker.revision)
    return None if follows else f"{worker}, and the volume has {_number(key.revision)}"


def _doubt(workers: WorkersStatus) -> str | None:
    """Say why there may be workers that are not listed, None where there are none."""
    if workers.presence == "unknown":
        return printable(workers.last_error or "its workers are not known")
    if workers.state != "on":
        return f"workers can't connect: {printable(workers.last_error or 'no reason given')}"
    return None if workers.settled else "workers may still be reconnecting"


def _other_bytes(responses: Iterable[StatusResponse], sdk_key: str) -> list[str]:
    """One sentence for each sidecar that has other bytes of a revision than one before it: those are two datafiles."""
    first: dict[int, tuple[str, str]] = {}
    sentences = []
    for response in responses:
        key = response.status.keys.get(sdk_key) if response.status else None
        if key is None or key.revision is None or key.sha256 is None:
            continue
        sha256, pod = first.setdefault(key.revision, (key.sha256, _label(response)))
        if sha256 != key.sha256:
            sentences.append(f"{_label(response)}: has other bytes of revision {key.revision} than {pod}")
    return sentences


def _has_reached(revision: int | None, wanted: int | None) -> bool:
    return revision is not None and wanted is not None and revision >= wanted


def _label(response: StatusResponse) -> str:
    return f"{printable(response.status.pod)} ({response.endpoint})" if response.status else response.endpoint


def _rows(response: StatusResponse, sdk_key: str | None, now: float) -> Iterator[tuple[str, ...]]:
    status = response.status
    if status is None:
        yield (response.endpoint, "–", f"{response.problem}")
        return
    own_now = _unix_s(status.now)
    for name, key in sorted(status.keys.items()):
        if sdk_key in (None, name):
            cells = (status.pod, name, _number(key.revision), _number(key.target_revision))
            yield (
                *map(printable, (*cells, _age(key.checked, now if own_now is None else own_now), key.trigger or "–")),
                _workers(status, key),
            )


def _workers(status: SidecarStatus, key: KeyStatus) -> str:
    if status.workers.state != "on":
        return "unknown"
    counts = Counter(worker.revision or 0 for worker in key.workers)
    parts = [f"{count} at {revision}" for revision, count in sorted(counts.items())]
    return ", ".join([*parts, *([] if status.workers.settled else ["more may connect"])]) or "none"


def _number(revision: int | None) -> str:
    return "–" if revision is None else str(revision)


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


_DECODER = msgspec.json.Decoder(SidecarStatus)
