"""This pod's part in the fleet on the bus: for each SDK key, it leaves what its volume has and what its workers use.

A change is written at once, but at most a few times a second; else the record is repeated, so that `status` can tell a pod that is
silent. Whatever the broker refuses here disables the proof, and not the bus.
"""

import asyncio
import contextlib
import random
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import msgspec

from datafile_sidecar.bus.broker import Broker
from datafile_sidecar.bus.errors import CommandRefusedError
from datafile_sidecar.bus.fleet_memory import FleetMemory
from datafile_sidecar.bus.fleet_store import Entry, Registered
from datafile_sidecar.bus.names import fleet_names
from datafile_sidecar.core import fleet_record
from datafile_sidecar.core.fleet_record import FleetRecord
from datafile_sidecar.core.fleet_roster import SETTLE_S
from datafile_sidecar.network.change_signal import ChangeSignal
from datafile_sidecar.observe.telemetry import Telemetry

_COLLECT_S = 0.02
"""Changes that come together, as those of a pod's workers, are written together. The pods of a fleet are spread over as long."""
_WRITE_EVERY_S = 0.2
_LOOK_EVERY_S = 0.5
_RETRY_S = 30.0
_BATCH = 32
_LEAVE_WITHIN_S = 0.3
_MISSING = fleet_record.encode(FleetRecord())


@dataclass(frozen=True, slots=True)
class Predecessors:
    """The names that earlier sidecars of the same volume had on the bus, and the SDK keys that they served."""

    names: tuple[str, ...] = ()
    sdk_keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PodReport:
    """What the bus needs to know of this pod.

    Args:
        name: Its name on the bus: `pod/instance`.
        predecessors: Returns those that it replaces, and notes its own name for the sidecar after it.
        records: Returns what is true now, by SDK key.
        changes: Notes each change of that.
    """

    name: str
    predecessors: Callable[[], Awaitable[Predecessors]]
    records: Callable[[], Awaitable[Mapping[str, FleetRecord]]]
    changes: ChangeSignal


class FleetMembership:
    """The records of one pod. It outlives connections."""

    def __init__(self, report: PodReport, telemetry: Telemetry) -> None:
        """Write this report."""
        self._report = report
        self._telemetry = telemetry
        self._memory = FleetMemory(report.name.encode())
        self._predecessors: Predecessors | None = None
        self._broker: Broker | None = None
        self._turn = asyncio.Lock()
        self._has_left = self._is_registered = False
        self._clock_offset = 0.0
        self._written: dict[str, FleetRecord] = {}
        self._due: dict[str, float] = {}
        self._unsettled_until = 0.0
        self._last_error: str | None = None

    def view(self) -> dict[str, Any]:
        """Return whether this pod is registered, for `/status`."""
        return {"state": "registered" if self._is_registered else "unregistered", "last_error": self._last_error}

    async def run(self, broker: Broker) -> NoReturn:
        """Write on this connection, for ever."""
        self._broker, is_new = broker, True
        self._due.clear()
        changes = self._report.changes
        try:
            while True:
                version, started, wait_s = changes.version, _now(), _RETRY_S
                try:
                    if is_new:
                        await self._begin(broker)
                        is_new = False
                    wait_s = await self._write(broker)
                except (CommandRefusedError, msgspec.MsgspecError) as error:
                    self._is_registered, self._last_error = False, str(error)
                    self._telemetry.fleet_refused(self._last_error)
                await asyncio.sleep(max(0.0, started + _WRITE_EVERY_S - _now()))
                await changes.wait(version, wait_s)
                await asyncio.sleep(_COLLECT_S * (1 + random.random()))
        finally:
            self._broker, self._is_registered = None, False

    async def leave(self) -> None:
        """Remove this pod, which ends in an orderly way. Without a connection, its record stays."""
        self._has_left = True
        if (broker := self._broker) is None:
            return
        with contextlib.suppress(Exception):  # the process ends, whatever the broker does
            async with asyncio.timeout(_LEAVE_WITHIN_S), self._turn:
                for sdk_key in self._written:
                    await broker.fleet.unregister(fleet_names(sdk_key), [self._report.name])

    async def _begin(self, broker: Broker) -> None:
        """Learn the broker's clock, and remove earlier sidecars of this volume where this one does not serve their keys."""
        if self._predecessors is None:
            self._predecessors = await self._report.predecessors()
        self._remove_predecessors_again()
        async with broker.time_limit():
            self._set_clock(await broker.fleet.time())
        served = await self._report.records()
        for sdk_key in set(self._predecessors.sdk_keys) - served.keys():
            async with broker.time_limit():
                await broker.fleet.unregister(fleet_names(sdk_key), self._predecessors.names)

    async def _write(self, broker: Broker) -> float:
        """Write what is due, and return after how long to look again."""
        async with self._turn:
            at = _now() + self._clock_offset
            records = {} if self._has_left else await self._report.records()
            changed = {key for key, record in records.items() if self._is_change(key, record)}
            due = [key for key in records if key in changed or self._due[key] <= _now()]
            for batch in (due[start : start + _BATCH] for start in range(0, len(due), _BATCH)):
                entries = [self._entry(key, records[key], at, is_change=key in changed) for key in batch]
                async with broker.time_limit():
                    broker_now, answers = await broker.fleet.register(entries)
                self._set_clock(broker_now)
                for key, answer in zip(batch, answers, strict=True):
                    await self._note(broker, key, records[key], answer)
            self._is_registered, self._last_error = True, None
        is_settled = _now() > self._unsettled_until and all(record.is_settled for record in records.values())
        next_due = min(self._due.values(), default=_now() + _RETRY_S)
        return max(0.0, min(next_due - _now(), _RETRY_S if is_settled else _LOOK_EVERY_S))

    def _is_change(self, sdk_key: str, record: FleetRecord) -> bool:
        """Tell whether a `status` that waits has to read this: something is new, or this pod has been silent."""
        if sdk_key not in self._due or _now() < self._unsettled_until:
            return True
        is_late = _now() > self._due[sdk_key] + record.every
        return is_late or not record.is_as(self._written[sdk_key])

    def _entry(self, sdk_key: str, record: FleetRecord, at: float, *, is_change: bool) -> Entry:
        value = fleet_record.encode(msgspec.structs.replace(record, at=at))
        since = f"{_now() + self._clock_offset:.3f} {secrets.token_hex(4)}".encode()
        removed = self._predecessors.names if self._predecessors else ()
        return Entry(fleet_names(sdk_key), self._report.name, value, since, removed, is_change)

    async def _note(self, broker: Broker, sdk_key: str, record: FleetRecord, answer: Registered) -> None:
        self._written[sdk_key] = record
        self._due[sdk_key] = _now() + record.every * (0.8 + 0.4 * random.random())
        if lost := self._memory.learn(sdk_key, answer):
            async with broker.time_limit():
                await broker.fleet.remember(fleet_names(sdk_key), lost, _MISSING)
            self._remove_predecessors_again()

    def _remove_predecessors_again(self) -> None:
        """Write again and again for a while: other pods may restore names that this one replaces."""
        if self._predecessors and self._predecessors.names:
            self._unsettled_until = _now() + SETTLE_S

    def _set_clock(self, broker_now: float) -> None:
        """Take the broker's clock as it was when it answered: a record may look older than it is, and never newer."""
        self._clock_offset = broker_now - _now()


def _now() -> float:
    return asyncio.get_running_loop().time()
