"""The bus: can a sidecar connect, subscribe, read, and write there? It is tried as a sidecar does it, with nothing to tell."""

import asyncio
import time

import structlog

from datafile_sidecar.bus import ANSWER_WITHIN_S, Bus, BusError, Claim, shown
from datafile_sidecar.core.bus_record import Head, Record
from datafile_sidecar.observe.telemetry import Telemetry

from .finding import Finding, failed, ok, refused

_PART = "bus"
_PATIENCE_S = ANSWER_WITHIN_S + 1.0
_LOOK_S = 0.02
_CLAIM_S = 0.001
"""The one thing that is written: a claim of a poll, gone before any sidecar can mind it."""

_REACH = (
    "see that the broker runs, that host, port, user and password in DATAFILE_BUS_URL are right (rediss:// where it wants "
    "TLS, its CA in SSL_CERT_FILE), and that network policies let this pod reach it"
)
_PERMIT = "permit the user what sidecars need: docs/operations.md has the line for the broker's ACL"


async def look_at_bus(url: str | None, sdk_keys: tuple[str, ...]) -> Finding | None:
    """What there is to say; None where none is configured."""
    if url is None:
        return None
    heard = _Heard()
    try:
        bus = Bus(url, heard)
    except BusError as error:
        return refused(_PART, str(error), "install the extra, or take DATAFILE_BUS_URL away")
    for key in sdk_keys:
        bus.join(key, _Silent())
    async with asyncio.TaskGroup() as tasks:
        connection = tasks.create_task(bus.run())
        problem = await _tried(bus, heard, sdk_keys[0])
        connection.cancel()
    return problem or ok(_PART, f"{shown(url)}: connected, may subscribe, read and write")


async def _tried(bus: Bus, heard: "_Heard", sdk_key: str) -> Finding | None:
    started = time.monotonic()
    while not bus.is_connected:
        if heard.trouble or time.monotonic() - started > _PATIENCE_S:
            return failed(_PART, heard.trouble or f"no answer within {_PATIENCE_S:g} s", _REACH)
        await asyncio.sleep(_LOOK_S)
    claim = await bus.consult(sdk_key, lambda _: False, _CLAIM_S)
    if heard.refused or not isinstance(claim, Claim):
        return failed(_PART, heard.refused or "it gave no sane answer", _PERMIT)
    return None


class _Heard(Telemetry):
    """What would go to the log, kept."""

    def __init__(self) -> None:
        super().__init__(structlog.wrap_logger(structlog.ReturnLogger()), time.monotonic)
        self.trouble = self.refused = ""

    def bus_disconnected(self, reason: str, wait_s: float) -> None:
        self.trouble = self.trouble or reason

    def bus_refused(self, reason: str) -> None:
        self.refused = self.refused or reason


class _Silent:
    """A member with nothing to tell and no wish."""

    def held(self) -> Head | None:
        return None

    async def body(self, head: Head) -> bytes | None:
        return None

    def wants(self, head: Head) -> bool:
        return False

    def offer(self, record: Record | None) -> None:
        pass
