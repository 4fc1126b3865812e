"""Reads the `/status` of other sidecars, and finds those that lag behind.

Two rules: only a sidecar or worker that has confirmed a revision counts as up to date, and all text from `/status` is
untrusted wherever it is shown.
"""

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
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
    """A process of the app, and what it uses: revision and beginning of the digest, None while it has no datafile.

    On the bus it stands for `count` workers that are alike.
    """

    id: _Text
    pid: _Pid
    host: _Text
    revision: _Revision | None
    sha256: _Text | None = None
    refused: RefusalStatus | None = None
    count: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)] = 1

    def __str__(self) -> str:
        uses = "has no datafile" if self.revision is None else f"uses revision {self.revision}"
        if self.refused:
            which = "what was published" if self.refused.revision is None else f"revision {self.refused.revision}"
            uses = f"can't use {which}: {printable(self.refused.reason)}; it {uses}"
        others = f", and so do {self.count - 1} more workers" if self.count > 1 else ""
        return f"worker {printable(self.id)} (pid {self.pid} on {printable(self.host)}) {uses}{others}"

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
    """One SDK key: revision and generation on the volume, the target revision, and the workers. `checked` is RFC 3339.

    On the bus, `unlisted` workers have no place in the pod's record, and all used what the volume has when it was `applied`, in
    Unix seconds of the pod's own clock.
    """

    revision: _Revision | None = None
    target_revision: _Revision | None = None
    generation: _Revision | None = None
    trigger: _Text | None = None
    checked: _Text | None = None
    last_error: _Text | None = None
    sha256: _Text | None = None
    workers: tuple[WorkerStatus, ...] = ()
    unlisted: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)] = 0
    applied: float | None = None

    @property
    def worker_count(self) -> int:
        """How many workers use this key."""
        return sum(worker.count for worker in self.workers) + self.unlisted


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
    """The result of asking one endpoint: a status, or the problem with it, or both: a status that is too old to count.

    `is_peer` means that a sidecar of its own is expected there, and `peer_ports` are the webhook ports that are known of it. It
    is asked at `url`. On the bus, a pod was last heard `silent_s` seconds ago; the user excuses one that is silent.
    """

    endpoint: str
    status: SidecarStatus | None = None
    problem: str | None = None
    peer_ports: frozenset[int] = frozenset()
    is_peer: bool = False
    url: str = ""
    silent_s: float | None = None
    is_excused: bool = False

    @property
    def is_pod(self) -> bool:
        """Whether this is about one pod, and not about the fleet."""
        return self.status is not None or bool(self.url) or self.silent_s is not None

    @property
    def label(self) -> str:
        """The name of the pod and where it answers, safe to show."""
        return f"{printable(self.status.pod)} ({self.endpoint})" if self.status else self.endpoint


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
    responses = [response for response in responses if not response.is_excused]
    behind = [sentence for response in responses for sentence in _lagging(response, sdk_key, wanted, workers_required)]
    return behind + _other_bytes(responses, sdk_key)


def doubt(workers: WorkersStatus) -> str | None:
    """Say why there may be workers that are not listed, None where there are none."""
    if workers.presence == "unknown":
        return printable(workers.last_error or "its workers are not known")
    if workers.state != "on":
        return f"workers can't connect: {printable(workers.last_error or 'no reason given')}"
    return None if workers.settled else "workers may still be reconnecting"


def printable(text: str) -> str:
    """Shorten untrusted text, and escape what could move the cursor or break a line."""
    short = text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 1] + "…"
    if short.isprintable():
        return short
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in short)


def number(revision: int | None) -> str:
    """Return the revision as text, and a dash where there is none."""
    return "–" if revision is None else str(revision)


def _lagging(response: StatusResponse, sdk_key: str, wanted: int | None, workers_required: bool) -> Iterator[str]:
    if response.problem is not None or response.status is None:
        yield f"{response.label}: {response.problem}"
        return
    pod, key, workers = response.label, response.status.keys.get(sdk_key), response.status.workers
    if key is None:
        yield f"{pod}: does not serve this SDK key"
        return
    if not _has_reached(key.revision, wanted):
        revision = "no datafile" if key.revision is None else f"revision {key.revision}"
        cause = f": {printable(key.last_error)}" if key.last_error else ""
        yield f"{pod}: has {revision} on its volume{cause}"
    yield from (f"{pod}: {sentence}" for worker in key.workers if (sentence := _behind(worker, key, wanted)))
    yield from (f"{pod}: {one}" for one in workers.unreported)
    if key.unlisted:
        yield f"{pod}: {key.unlisted} more of its workers are not as the volume, and not listed"
    if (reason := doubt(workers)) is not None:
        yield f"{pod}: {reason}"
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
    return None if follows else f"{worker}, and the volume has {number(key.revision)}"


def _other_bytes(responses: Iterable[StatusResponse], sdk_key: str) -> list[str]:
    """One sentence for each sidecar that has other bytes of a revision than one before it: those are two datafiles."""
    first: dict[int, tuple[str, str]] = {}
    sentences = []
    for response in responses:
        key = response.status.keys.get(sdk_key) if response.status else None
        if key is None or key.revision is None or key.sha256 is None:
            continue
        sha256, pod = first.setdefault(key.revision, (key.sha256, response.label))
        if sha256 != key.sha256:
            sentences.append(f"{response.label}: has other bytes of revision {key.revision} than {pod}")
    return sentences


def _has_reached(revision: int | None, wanted: int | None) -> bool:
    return revision is not None and wanted is not None and revision >= wanted


_DECODER = msgspec.json.Decoder(SidecarStatus)
