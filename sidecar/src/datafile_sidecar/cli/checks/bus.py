"""Check the bus as a sidecar uses it: connect, subscribe, read, write. Nothing is shared with other sidecars."""

import asyncio
import re
import time

import structlog

from datafile_sidecar.bus import ANSWER_WITHIN_S, Bus, BusError, shown
from datafile_sidecar.bus.errors import BrokerError, explained
from datafile_sidecar.bus.fleet_reader import fleet_reader
from datafile_sidecar.cli.checks.finding import Finding, failed, ok, refused, warning
from datafile_sidecar.core.bus_message import Change
from datafile_sidecar.core.bus_record import Head, Record
from datafile_sidecar.observe.telemetry import Telemetry

_PART = "bus"
_PLACES = "each sidecar takes 2 or 3 of the broker's maxclients, and with hundreds of SDK keys 9"
_CONNECT_WITHIN_S = ANSWER_WITHIN_S + 1.0
_LOOK_EVERY_S = 0.02

_FIX_CONNECTION = (
    "see that the broker runs, that host, port, user and password in DATAFILE_BUS_URL are right (rediss:// if it requires "
    "TLS, its CA in SSL_CERT_FILE), and that network policies let this pod connect to it"
)
_FIX_CLUSTER = (
    "write redis+cluster:// (rediss+cluster:// with TLS) in DATAFILE_BUS_URL where the broker is a Redis Cluster, and see that "
    "all of its slots are served"
)
_FIX_MEMORY = (
    "raise the broker's maxmemory, or remove what else it holds: the bus needs about the compressed size of one datafile per "
    "SDK key"
)
_FIX_REPLICA = "name the primary in DATAFILE_BUS_URL: sidecars have to write, and a replica takes no writes"
_FIX_MASTER = (
    "write the name by which the Sentinels know the master after # in DATAFILE_BUS_URL (sentinel monitor NAME …)"
)
_FIX_DISK = 'look at the broker\'s own log and at its disk; the bus needs no persistence (save "")'
_FIX_PERMISSION = (
    "give the user the permissions that sidecars need: docs/operations.md has the line for the broker's ACL"
)
_FIX_OLD = "use Redis 6.2 or newer, or Valkey"
_FIXES = {
    "MOVED|ASK|CLUSTERDOWN|CROSSSLOT|TRYAGAIN": _FIX_CLUSTER,
    "OOM": _FIX_MEMORY,
    "READONLY": _FIX_REPLICA,
    "MISCONF": _FIX_DISK,
    "NOPERM": _FIX_PERMISSION,
    "knows no master": _FIX_MASTER,
}
"""What to do, by what the broker's error contains."""


async def check_bus(url: str, sdk_keys: tuple[str, ...]) -> Finding:
    """Connect to the bus at a URL, and try what a sidecar does there."""
    errors = _BusErrors()
    try:
        bus = Bus(url, errors)
    except BusError as error:
        return refused(_PART, str(error), "install the extra, or unset DATAFILE_BUS_URL")
    for key in sdk_keys:
        bus.join(key, _EmptyMember())
    async with asyncio.TaskGroup() as tasks:
        connection = tasks.create_task(bus.run())
        problem = await _find_problem(bus, errors)
        connection.cancel()
    if problem is None:
        problem = await _find_fleet_problem(url)
    return problem or ok(
        _PART, f"{shown(url)}: connected, may subscribe, read and write, and register for `status`; {_PLACES}"
    )


async def _find_problem(bus: Bus, errors: "_BusErrors") -> Finding | None:
    started = time.monotonic()
    while not bus.is_connected:
        if errors.first or time.monotonic() - started > _CONNECT_WITHIN_S:
            message = errors.first or f"no answer within {_CONNECT_WITHIN_S:g} s"
            return failed(_PART, message, _fix(message))
        await asyncio.sleep(_LOOK_EVERY_S)
    return None


async def _find_fleet_problem(url: str) -> Finding | None:
    """Try what proves to `status` who has a revision: without it, the bus works, and gives no yes."""
    try:
        async with fleet_reader(url) as reader:
            await reader.try_all()
    except (BrokerError, OSError) as error:
        message = f"connected, but `status` can't prove anything by it: {explained(url, error)}"
        return warning(_PART, message, _FIX_OLD if "unknown command" in message else _fix(message))
    return None


def _fix(message: str) -> str:
    return next((fix for codes, fix in _FIXES.items() if re.search(rf"\b({codes})\b", message)), _FIX_CONNECTION)


class _BusErrors(Telemetry):
    """Keeps the first error instead of logging it."""

    def __init__(self) -> None:
        super().__init__(structlog.wrap_logger(structlog.ReturnLogger()), time.monotonic)
        self.first = ""

    def bus_disconnected(self, reason: str, wait_s: float) -> None:
        self.first = self.first or reason

    def bus_refused(self, reason: str, *, is_connected: bool) -> None:
        self.first = self.first or reason


class _EmptyMember:
    """A member that has no datafile and wants none."""

    def held(self) -> Head | None:
        return None

    async def body(self, sha256: str) -> bytes | None:
        return None

    def change(self, head: Head) -> Change | None:
        return None

    def wants(self, head: Head) -> bool:
        return False

    def receive(self, record: Record | None) -> None:
        pass

    def fetch_soon(self) -> None:
        pass
