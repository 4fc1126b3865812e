"""Check the bus as a sidecar uses it: connect, subscribe, read, write. Nothing is shared with other sidecars."""

import asyncio
import time

import structlog

from datafile_sidecar.bus import ANSWER_WITHIN_S, Bus, BusError, shown
from datafile_sidecar.cli.checks.finding import Finding, failed, ok, refused
from datafile_sidecar.core.bus_record import Head, Record
from datafile_sidecar.observe.telemetry import Telemetry

_PART = "bus"
_CONNECT_WITHIN_S = ANSWER_WITHIN_S + 1.0
_LOOK_EVERY_S = 0.02
_LEASE_S = 0.001
"""The only write is a poll lease so short that it disturbs no sidecar."""

_FIX_CONNECTION = (
    "see that the broker runs, that host, port, user and password in DATAFILE_BUS_URL are right (rediss:// if it requires "
    "TLS, its CA in SSL_CERT_FILE), and that network policies let this pod connect to it"
)
_FIX_PERMISSION = (
    "give the user the permissions that sidecars need: docs/operations.md has the line for the broker's ACL"
)


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
        problem = await _find_problem(bus, errors, sdk_keys[0])
        connection.cancel()
    return problem or ok(_PART, f"{shown(url)}: connected, may subscribe, read and write")


async def _find_problem(bus: Bus, errors: "_BusErrors", sdk_key: str) -> Finding | None:
    started = time.monotonic()
    while not bus.is_connected:
        if errors.connection or time.monotonic() - started > _CONNECT_WITHIN_S:
            message = errors.connection or f"no answer within {_CONNECT_WITHIN_S:g} s"
            return failed(_PART, message, _FIX_CONNECTION)
        await asyncio.sleep(_LOOK_EVERY_S)
    await bus.poll_lease(sdk_key, lambda _: False, _LEASE_S)
    return failed(_PART, errors.refused, _FIX_PERMISSION) if errors.refused else None


class _BusErrors(Telemetry):
    """Keeps the first error of each kind instead of logging it."""

    def __init__(self) -> None:
        super().__init__(structlog.wrap_logger(structlog.ReturnLogger()), time.monotonic)
        self.connection = self.refused = ""

    def bus_disconnected(self, reason: str, wait_s: float) -> None:
        self.connection = self.connection or reason

    def bus_refused(self, reason: str) -> None:
        self.refused = self.refused or reason


class _EmptyMember:
    """A member that has no datafile and wants none."""

    def held(self) -> Head | None:
        return None

    async def body(self, head: Head) -> bytes | None:
        return None

    def wants(self, head: Head) -> bool:
        return False

    def receive(self, record: Record | None) -> None:
        pass
