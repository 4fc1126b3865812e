"""The datafiles on the broker: read where a member wants them, and replaced by newer ones, by compare-and-set."""

import asyncio
import functools
import random
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Protocol

import msgspec

from datafile_sidecar.bus.broker import Broker
from datafile_sidecar.bus.errors import CommandRefusedError
from datafile_sidecar.bus.names import channel, datafile_key
from datafile_sidecar.core import bus_record
from datafile_sidecar.core.bus_record import MAX_HEAD_BYTES, MAX_VALUE_BYTES, BadRecordError, Head, Record
from datafile_sidecar.network.turns import Turns, Urgency
from datafile_sidecar.observe.telemetry import Telemetry

_MAX_ATTEMPTS = 5
_TRANSFER_WITHIN_S = 20.0
"""How long a datafile may take at least, on a line that is narrow for so many pods; at most twice as long."""


class Member(Protocol):
    """What the bus needs to know of one SDK key. No method may wait for anything but its own disk."""

    def held(self) -> Head | None:
        """Return the head of the datafile on the volume, None where there is none that upstream served."""

    async def body(self, head: Head) -> bytes | None:
        """Return the bytes of that datafile, None where they are not on the volume any more."""

    def wants(self, head: Head) -> bool:
        """Return whether to hand over the datafile with this head."""

    def receive(self, record: Record | None) -> None:
        """Receive a datafile that is wanted. None means that the bus has said all that it has."""

    def fetch_soon(self) -> None:
        """Ask upstream for what the bus announced and could not bring."""


class Records:
    """One datafile for each member, and the messages that announce it."""

    def __init__(self, members: Mapping[str, Member], telemetry: Telemetry, validations: Turns) -> None:
        """Take the members by SDK key, and the turns in which datafiles are validated, or compressed."""
        self._members = members
        self._telemetry = telemetry
        self._validations = validations

    def is_wanted(self, sdk_key: str, message: bytes) -> bool:
        """Return whether a message announces a datafile that the member wants."""
        try:
            head = bus_record.decode_head(message)
        except BadRecordError as error:
            self._telemetry.bus_record_rejected(sdk_key, "message", str(error))
            return False
        return self._members[sdk_key].wants(head)

    async def synchronize(self, broker: Broker, sdk_key: str, deadline: float) -> None:
        """Read the datafile on the broker if its head says that it is wanted, then write ours if that is newer."""
        line = bus_record.head_line(await _head(broker, sdk_key))
        try:
            if line != b"" and self._members[sdk_key].wants(bus_record.decode_head(line or b"")):
                await self.read(broker, sdk_key, deadline)
        except BadRecordError as error:
            await self._reject(broker, sdk_key, line, error)
        await self.write(broker, sdk_key)

    async def read(self, broker: Broker, sdk_key: str, deadline: float) -> None:
        """Hand the datafile on the broker to the member: the one that a message announced, or a newer one.

        Args:
            broker: The connection.
            sdk_key: The key of the member.
            deadline: When to give up and ask upstream instead, in the event loop's time.
        """
        member = self._members[sdk_key]
        try:
            async with _transfer(broker, deadline):
                value = await broker.get(datafile_key(sdk_key), MAX_VALUE_BYTES + 1)
        except _TooLongError:
            self._miss(sdk_key, "it takes too long to arrive")
            return
        if not value:
            self._miss(sdk_key, "it is not there any more: the broker has evicted it, or it was deleted")
            await self.write(broker, sdk_key)
            return
        try:
            decode = functools.partial(asyncio.to_thread, bus_record.decode, value, sdk_key)
            record = await self._validations.run(Urgency.HINTED, decode)
        except BadRecordError as error:
            await self._reject(broker, sdk_key, bus_record.head_line(value), error)
            return
        if member.wants(record.head):
            member.receive(record)

    async def write(self, broker: Broker, sdk_key: str, bad: bytes | None = None) -> None:
        """Write the member's datafile unless the broker has a newer one, whatever other pods write meanwhile.

        Args:
            broker: The connection.
            sdk_key: The key of the member.
            bad: The head line of a value that must be replaced even if it seems newer.
        """
        member, key = self._members[sdk_key], datafile_key(sdk_key)
        for _ in range(_MAX_ATTEMPTS):
            if (head := member.held()) is None:
                return
            current = await _head(broker, sdk_key)
            if not _is_due(head, current, bad):
                return
            head = msgspec.structs.replace(head, id=secrets.token_hex(8))
            value = await self._validations.run(Urgency.HINTED, functools.partial(_encoded, member, head))
            if value is None:
                return
            message = channel(sdk_key), head.encode()
            try:
                async with _transfer(broker, transfer_deadline()):
                    is_written = await broker.compare_and_set(
                        key, current, value, max_bytes=MAX_HEAD_BYTES + 1, publish=message
                    )
            except _TooLongError as error:
                raise CommandRefusedError("the datafile could not be sent: that takes too long") from error
            if is_written:
                self._telemetry.bus_record_shared(sdk_key, head.revision)
                return

    def _miss(self, sdk_key: str, reason: str) -> None:
        self._telemetry.bus_record_missing(sdk_key, reason)
        self._members[sdk_key].fetch_soon()

    async def _reject(self, broker: Broker, sdk_key: str, line: bytes | None, error: BadRecordError) -> None:
        self._telemetry.bus_record_rejected(sdk_key, "value", str(error))
        await self.write(broker, sdk_key, line)


async def _head(broker: Broker, sdk_key: str) -> bytes:
    """Return the value's first bytes. The broker's time limit is for the broker alone, here as below: other keys may hold us up."""
    async with broker.time_limit():
        return await broker.get(datafile_key(sdk_key), MAX_HEAD_BYTES + 1)


class _TooLongError(Exception):
    """A datafile moves, but would take too long."""


@asynccontextmanager
async def _transfer(broker: Broker, deadline: float) -> AsyncIterator[None]:
    """Bound what takes long. Raises TimeoutError for a broker that is silent, _TooLongError at the deadline."""
    async with broker.time_limit():
        try:
            async with asyncio.timeout_at(deadline):
                yield
        except TimeoutError as error:
            raise _TooLongError from error


async def _encoded(member: Member, head: Head) -> bytes | None:
    body = await member.body(head)
    return None if body is None else await asyncio.to_thread(bus_record.encode, head, body)


def _is_due(head: Head, current: bytes, bad: bytes | None) -> bool:
    try:
        theirs = bus_record.decode_head(current)
    except BadRecordError:
        return True
    is_newer = bus_record.is_newer(head, theirs, time.time()) and not bus_record.is_same(head, theirs)
    return is_newer or bus_record.head_line(current) == bad


def transfer_deadline() -> float:
    """Return when to give up a transfer that begins now, in the event loop's time. Pods of a fleet don't give up together."""
    return asyncio.get_running_loop().time() + _TRANSFER_WITHIN_S * (1 + random.random())
