"""The format of what each sidecar leaves on the bus for `status`: what its volume has, what its workers use, and who lags.

A record is at most 1 KiB, so workers that are alike are counted together, and what does not fit counts as not confirmed. What is
read from the bus is untrusted text.
"""

from collections.abc import Iterable
from typing import Annotated, Final

import msgspec

from datafile_sidecar.core import fleet_status
from datafile_sidecar.core.display_text import printable, shorten
from datafile_sidecar.core.fleet_status import (
    KeyStatus,
    RefusalStatus,
    SidecarStatus,
    UnreportedStatus,
    WorkersStatus,
    WorkerStatus,
)

MAX_RECORD_BYTES: Final = 1024
MAX_NAME_BYTES: Final = 320
EVERY_S: Final = 5.0
"""How often a record is written anew, where nothing changes."""
MAX_EVERY_S: Final = 60.0

_MAX_TEXT: Final = 100
_MAX_HOST: Final = 63
_MAX_UNREPORTED: Final = 3

_Count = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
_Revision = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
_Text = Annotated[str, msgspec.Meta(max_length=MAX_RECORD_BYTES)]
_Time = Annotated[float, msgspec.Meta(ge=0, le=1e11)]


class BadRecordError(ValueError):
    """A value on the bus that is not a record of a pod."""


class WorkerGroup(msgspec.Struct, frozen=True, omit_defaults=True):
    """Workers that are alike: how many, and which process is one of them."""

    id: _Text
    pid: _Count
    host: _Text
    count: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)] = 1
    revision: _Revision | None = None
    sha256: _Text | None = None
    refused: _Text | None = None
    refused_revision: _Revision | None = None


class FleetRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """One SDK key of one pod. `at` is when it was written, in Unix seconds of the broker's clock; it is repeated after `every`.

    `unlisted` counts workers that have no place in the record. `doubt` says why there may be workers that are not counted.
    `applied` is when the last worker began to use what the volume has, in Unix seconds of the pod's own clock.
    """

    at: _Time = 0.0
    every: Annotated[float, msgspec.Meta(ge=1, le=MAX_EVERY_S)] = EVERY_S
    revision: _Revision | None = None
    target: _Revision | None = None
    generation: _Revision | None = None
    sha256: _Text | None = None
    trigger: _Text | None = None
    checked: _Text | None = None
    last_error: _Text | None = None
    applied: _Time | None = None
    workers: tuple[WorkerGroup, ...] = ()
    unlisted: _Count = 0
    unreported: tuple[UnreportedStatus, ...] = ()
    doubt: _Text | None = None

    @property
    def is_settled(self) -> bool:
        """Whether changes of the workers will be told: only a look shows that a process without a report has ended."""
        return self.doubt is None and not self.unreported

    def is_as(self, other: "FleetRecord") -> bool:
        """Tell whether it says the same, apart from times that move by themselves."""
        return msgspec.structs.replace(self, at=0.0, checked=None) == msgspec.structs.replace(
            other, at=0.0, checked=None
        )

    @property
    def is_applied(self) -> bool:
        """Whether every worker is known to use what the volume has."""
        groups = [(one.revision, (self.sha256 or "").startswith(one.sha256 or ""), one.refused) for one in self.workers]
        return self.is_settled and not self.unlisted and all(one == (self.revision, True, None) for one in groups)


def describe(key: KeyStatus, workers: WorkersStatus, every_s: float = EVERY_S) -> FleetRecord:
    """Return the record of a key, as `/status` would show it, without a time."""
    groups = _groups(key.workers, key)
    rest = max(0, len(workers.unreported) - _MAX_UNREPORTED)
    return FleetRecord(
        every=min(max(every_s, EVERY_S), MAX_EVERY_S),
        revision=key.revision,
        target=key.target_revision,
        generation=key.generation,
        sha256=key.sha256,
        trigger=key.trigger,
        checked=key.checked,
        last_error=key.last_error and _cut(key.last_error),
        workers=groups,
        unlisted=rest,
        unreported=workers.unreported[:_MAX_UNREPORTED],
        doubt=_cut(doubt) if (doubt := fleet_status.doubt(workers)) is not None else None,
    )


def encode(record: FleetRecord) -> bytes:
    """Return the record in at most 1 KiB. Groups of workers without a place are counted as unlisted."""
    while len(encoded := msgspec.json.encode(record)) > MAX_RECORD_BYTES:
        if record.workers:
            *kept, last = record.workers
            unlisted = min(record.unlisted + last.count, 2**31 - 1)
            record = msgspec.structs.replace(record, workers=tuple(kept), unlisted=unlisted)
        elif record.unreported:
            record = msgspec.structs.replace(
                record, unreported=(), unlisted=min(record.unlisted + len(record.unreported), 2**31 - 1)
            )
        elif record.last_error or record.trigger or record.checked:
            record = msgspec.structs.replace(record, last_error=None, trigger=None, checked=None)
        else:
            record = FleetRecord(at=record.at, every=record.every, doubt="what it has does not fit into a record")
    return encoded


def decode(value: bytes) -> FleetRecord:
    """Parse a record.

    Raises:
        BadRecordError: It is longer than 1 KiB, or not of this form.
    """
    if len(value) > MAX_RECORD_BYTES:
        raise BadRecordError(f"longer than {MAX_RECORD_BYTES} bytes")
    try:
        return _DECODER.decode(value)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise BadRecordError(str(error)) from None


def status_of(record: FleetRecord, pod: str, instance: str, sdk_key: str) -> SidecarStatus:
    """Return the record as an answer of `/status`, with a count for workers that are alike."""
    workers = tuple(
        WorkerStatus(
            id=one.id,
            pid=one.pid,
            host=one.host,
            revision=one.revision,
            sha256=one.sha256,
            refused=None if one.refused is None else RefusalStatus(one.refused, one.refused_revision),
            count=one.count,
        )
        for one in record.workers
    )
    key = KeyStatus(
        revision=record.revision,
        target_revision=record.target,
        generation=record.generation,
        trigger=record.trigger,
        checked=record.checked,
        last_error=record.last_error,
        sha256=record.sha256,
        workers=workers,
        unlisted=record.unlisted,
        applied=record.applied,
    )
    presence = "locks" if record.doubt is None else "unknown"
    known = WorkersStatus(
        state="on", settled=True, presence=presence, unreported=record.unreported, last_error=record.doubt
    )
    return SidecarStatus(pod=pod, keys={sdk_key: key}, instance=instance, workers=known)


def _groups(workers: Iterable[WorkerStatus], key: KeyStatus) -> tuple[WorkerGroup, ...]:
    """Count workers that are alike: first those that use what the volume has, then the oldest."""
    counts: dict[tuple[object, ...], WorkerGroup] = {}
    for one in workers:
        refused = _cut(one.refused.reason) if one.refused else None
        kind = (one.revision, one.sha256, refused, one.refused and one.refused.revision)
        known = counts.get(kind)
        counts[kind] = WorkerGroup(
            id=known.id if known else one.id,
            pid=known.pid if known else one.pid,
            host=known.host if known else shorten(printable(one.host), _MAX_HOST),
            count=one.count + (known.count if known else 0),
            revision=one.revision,
            sha256=one.sha256,
            refused=refused,
            refused_revision=one.refused.revision if one.refused else None,
        )

    def order(group: WorkerGroup) -> tuple[bool, int]:
        return group.revision != key.revision or group.refused is not None, group.revision or 0

    return tuple(sorted(counts.values(), key=order))


def _cut(text: str) -> str:
    return shorten(printable(text), _MAX_TEXT)


_DECODER = msgspec.json.Decoder(FleetRecord)
