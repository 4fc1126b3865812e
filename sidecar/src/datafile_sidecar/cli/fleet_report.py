"""What this pod tells the fleet on the bus: the parts of `/status` that prove what its volume has and its workers use."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from datafile_sidecar.bus import PodReport, Predecessors
from datafile_sidecar.core import fleet_record
from datafile_sidecar.core.display_text import shorten
from datafile_sidecar.core.fleet_record import EVERY_S, FleetRecord
from datafile_sidecar.core.fleet_status import KeyStatus, WorkersStatus
from datafile_sidecar.network.single_flight import SingleFlight
from datafile_sidecar.sync.syncer import KeySyncer
from datafile_sidecar.volume import fleet_note
from datafile_sidecar.volume.workers import Workers

_MAX_ERROR = 500
_KEYS_PER_S = 5
"""With many SDK keys a pod repeats each record less often, so that it costs the broker no more than one with few."""


def fleet_report(name: str, directory: Path, syncers: Mapping[str, KeySyncer], workers: Workers) -> PodReport:
    """Return what the bus needs to know of this pod.

    Args:
        name: The pod's name on the bus.
        directory: The shared directory, which tells its next sidecar that name.
        syncers: By SDK key.
        workers: The workers of the pod.
    """
    exchange = SingleFlight(lambda: fleet_note.exchange(directory, name, syncers), "the note to the next sidecar")

    async def predecessors() -> Predecessors:
        note = await exchange.result()
        return Predecessors(note.names, note.sdk_keys)

    return PodReport(name, predecessors, _Records(syncers, workers).read, workers.changes)


@dataclass(slots=True)
class _Records:
    syncers: Mapping[str, KeySyncer]
    workers: Workers
    _applied: dict[str, tuple[str, float]] = field(default_factory=dict)

    async def read(self) -> dict[str, FleetRecord]:
        """Return what is true now, by SDK key."""
        presence = msgspec.convert(_bounded(await self.workers.status()), WorkersStatus)
        workers, every_s = self.workers.by_key(), max(EVERY_S, len(self.syncers) / _KEYS_PER_S)
        records = {}
        for sdk_key, one in self.syncers.items():
            key = msgspec.convert(_bounded(one.status()) | {"workers": workers[sdk_key]}, KeyStatus)
            records[sdk_key] = self._dated(sdk_key, fleet_record.describe(key, presence, every_s))
        return records

    def _dated(self, sdk_key: str, record: FleetRecord) -> FleetRecord:
        """Add when the workers of this pod were first seen to use what its volume has."""
        if record.sha256 is None or not record.is_applied:
            return record
        sha256, at = self._applied.get(sdk_key, ("", 0.0))
        if sha256 != record.sha256:
            at = time.time()
            self._applied[sdk_key] = record.sha256, at
        return msgspec.structs.replace(record, applied=at)


def _bounded(status: dict[str, Any]) -> dict[str, Any]:
    return status | {"last_error": status["last_error"] and shorten(status["last_error"], _MAX_ERROR)}
