"""Reads the records that pods left on the bus, and finds what keeps them from being a proof.

A record vouches for its pod only while it is fresh by the broker's clock. A pod that is silent stays in the proof until the user
excuses it, however long ago it was heard.
"""

import fnmatch
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from datafile_sidecar.core import fleet_record
from datafile_sidecar.core.fleet_record import BadRecordError, FleetRecord
from datafile_sidecar.core.fleet_status import StatusResponse, printable

MAX_PODS: Final = 20_000
MAX_BYTES: Final = 20_000_000
SETTLE_S: Final = 3.0
"""How long pods have to register again on a broker that has lost its memory. The first ones also name others that they knew."""
OFF_TABLE_S: Final = 600.0
"""A pod that is silent for longer is not in the table, and still in the proof."""

_SILENT_AFTER: Final = 3
_FUTURE_S: Final = 1.0
_BUS: Final = "bus"


@dataclass(frozen=True, slots=True)
class Roster:
    """What was read of one SDK key: the record of each pod by its name on the bus (pod and instance).

    `now` and `since` are Unix seconds by the broker's clock, when it was read and when the first pod registered (None where that
    is not known). `listeners` counts the connections that hear of new datafiles.
    """

    sdk_key: str
    records: Mapping[bytes, bytes]
    now: float
    since: float | None
    listeners: int


@dataclass(frozen=True, slots=True)
class Excuses:
    """Which silent pods need not be heard: those with these names (`*` and `?` stand for any text), or silent for so long."""

    pods: tuple[str, ...] = ()
    after_s: float | None = None

    def covers(self, pod: str, silent_s: float) -> bool:
        """Tell whether a pod is excused that is silent for so long."""
        is_over = self.after_s is not None and silent_s > self.after_s
        return is_over or any(fnmatch.fnmatchcase(pod, pattern) for pattern in self.pods)


def responses(roster: Roster, excuses: Excuses) -> list[StatusResponse]:
    """Return what each pod says of itself, with a problem where it can't vouch for that."""
    return [_response(roster, name, value, excuses) for name, value in sorted(roster.records.items())]


def doubts(roster: Roster, answers: Sequence[StatusResponse], *, expected: int | None) -> Iterator[StatusResponse]:
    """One problem for each reason why a pod may be missing.

    Args:
        roster: What was read.
        answers: Its pods.
        expected: The number of pods that must be heard. When that many are, there is no other doubt.
    """
    if expected is not None:
        heard = sum(answer.problem is None for answer in answers)
        if heard != expected:
            yield StatusResponse(_BUS, problem=f"pods that are heard: {heard}, expected: {expected}")
        return
    if not answers:
        yield StatusResponse(_BUS, problem=f"no pod has registered for {printable(roster.sdk_key)}")
        return
    if roster.since is None:
        yield StatusResponse(_BUS, problem="it is not known since when pods register there")
    elif roster.now - roster.since < SETTLE_S:
        problem = f"the first pod has registered less than {SETTLE_S:g} s ago: others may be about to"
        yield StatusResponse(_BUS, problem=problem)
    if roster.listeners > len(answers):
        problem = (
            f"{roster.listeners} connections listen there, and {len(answers)} pods are registered: one may be of an older "
            "version, without the permissions, or just starting; or a connection has broken and the broker has not noticed"
        )
        yield StatusResponse(_BUS, problem=problem)


def forgotten(roster: Roster, excuses: Excuses) -> list[bytes]:
    """Return the names of pods that are excused by name, and silent for so long that they can be removed."""
    return [
        name
        for name, value in roster.records.items()
        if (answer := _response(roster, name, value, Excuses(excuses.pods))).is_excused
        and (answer.silent_s or 0.0) > OFF_TABLE_S
    ]


def _response(roster: Roster, name: bytes, value: bytes, excuses: Excuses) -> StatusResponse:
    pod, _, instance = name.decode(errors="backslashreplace").rpartition("/")
    answer = StatusResponse(printable(instance))
    try:
        record = fleet_record.decode(value)
    except BadRecordError as error:
        return StatusResponse(
            f"{printable(pod)} ({printable(instance)})",
            problem=f"what it left on the bus can't be read: {printable(str(error))}",
            silent_s=math.inf,
            is_excused=excuses.covers(pod, 0.0),
        )
    # Of a pod that others have named it is not known when it was heard, but not since the broker came back.
    silent_s = roster.now - (record.at or roster.since or roster.now)
    answer = replace(answer, status=fleet_record.status_of(record, pod, instance, roster.sdk_key), silent_s=silent_s)
    problem = "its name on the bus is not valid" if not (pod and instance) else _silence(record, silent_s)
    if problem is None:
        return answer
    return replace(answer, problem=problem, is_excused=excuses.covers(pod, silent_s))


def _silence(record: FleetRecord, silent_s: float) -> str | None:
    """Say why a record vouches for nothing, None where it does."""
    if record.at == 0:
        return "it has not been heard since the bus lost its memory"
    if silent_s < -_FUTURE_S:
        return f"its record claims a time {-silent_s:.0f} s in the future"
    if silent_s > record.every * _SILENT_AFTER:
        return f"it has not been heard for {silent_s:.0f} s: it is gone, stopped, or cut off from the bus"
    return None
