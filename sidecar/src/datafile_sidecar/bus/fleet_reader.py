"""Reads the fleet on the bus for `status`, from any place that reaches the broker, and removes pods that the user forgets."""

import contextlib
import math
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass

from datafile_sidecar.bus import extra
from datafile_sidecar.bus.broker import Broker, Connect
from datafile_sidecar.bus.errors import BrokerError
from datafile_sidecar.bus.fleet_store import SINCE_FIELD, Entry, Moment
from datafile_sidecar.bus.names import fleet_names, fleet_probe_names
from datafile_sidecar.core.fleet_roster import MAX_BYTES, MAX_PODS, Roster

_SINCE = SINCE_FIELD.encode()


@dataclass(frozen=True, slots=True)
class Reading:
    """A fleet, and the moment before it was read: where that is over, there is something new to read."""

    roster: Roster
    moment: Moment


@dataclass(frozen=True, slots=True)
class FleetReader:
    """One connection. All methods raise BrokerError or TimeoutError where the broker refuses, is lost or is silent."""

    broker: Broker

    async def read(self, sdk_key: str) -> Reading:
        """Read the records of all pods, in steps that are short for the broker and for our event loop."""
        names, fleet = fleet_names(sdk_key), self.broker.fleet
        moment = await self.moment(sdk_key)
        async with self.broker.time_limit():
            count = await fleet.count(names) - 1  # one field is no pod
        if count > MAX_PODS:
            raise BrokerError(
                f"{count} pods are registered for {sdk_key}, and at most {MAX_PODS} are read: forget some"
            )
        records, size, cursor = dict[bytes, bytes](), 0, 0
        while True:
            async with self.broker.time_limit():
                cursor, fields = await fleet.step(names, cursor)
            records |= fields
            size += sum(len(name) + len(value) for name, value in fields.items())
            if len(records) - 1 > MAX_PODS or size > MAX_BYTES:
                raise BrokerError(f"the records of {sdk_key} are more than {MAX_PODS}, or {MAX_BYTES} bytes")
            if not cursor:
                break
        async with self.broker.time_limit():
            now = await fleet.time()
        # After the records: a pod that starts meanwhile listens, is not among them, and so is not overlooked.
        listeners = (await self.moment(sdk_key)).listeners
        since = _since(records.pop(_SINCE, b""))
        return Reading(Roster(sdk_key, records, now, since, listeners), moment)

    async def moment(self, sdk_key: str) -> Moment:
        """Return what tells whether there is something new to read."""
        async with self.broker.time_limit():
            return await self.broker.fleet.moment(fleet_names(sdk_key))

    async def forget(self, sdk_key: str, pods: Collection[bytes]) -> None:
        """Remove these pods."""
        async with self.broker.time_limit():
            await self.broker.fleet.unregister(fleet_names(sdk_key), pods)

    async def try_all(self) -> None:
        """Do once all that sidecars and `status` do, under names that no SDK key has, and leave nothing behind."""
        names, fleet = fleet_probe_names(), self.broker.fleet
        async with self.broker.time_limit():
            await fleet.time()
            await fleet.register([Entry(names, "probe", b"", b"", ("other",), is_change=True)])
            await fleet.remember(names, [b"probe"], b"")
            await fleet.moment(names)
            await fleet.count(names)
            await fleet.step(names, 0)
            await fleet.unregister(names, ["probe"])
            await fleet.clear(names)


@contextlib.asynccontextmanager
async def fleet_reader(url: str, connect: Connect | None = None) -> AsyncIterator[FleetReader]:
    """Connect at the first command.

    Args:
        url: The broker, with user and password.
        connect: Opens connections; None means Redis, whose client must be installed.
    """
    async with (connect or extra.load())(url) as broker:
        yield FleetReader(broker)


def _since(value: bytes) -> float | None:
    try:
        since = float(value.partition(b" ")[0])
    except ValueError:
        return None
    return since if math.isfinite(since) else None
