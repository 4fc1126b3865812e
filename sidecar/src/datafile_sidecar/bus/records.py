"""The datafiles on the broker: read where a member wants them, and replaced by newer ones, by compare-and-set."""

import asyncio
import functools
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import msgspec

from datafile_sidecar.bus.broker import Broker
from datafile_sidecar.bus.errors import CommandRefusedError
from datafile_sidecar.bus.forms import CURRENT, EARLIER, Form, change_between
from datafile_sidecar.bus.member import Member
from datafile_sidecar.bus.transfer import TooLongError, transfer, transfer_deadline
from datafile_sidecar.core import backoff, bus_record
from datafile_sidecar.core.bus_message import Change
from datafile_sidecar.core.bus_record import MAX_HEAD_BYTES, MAX_VALUE_BYTES, BadRecordError, Head, Record
from datafile_sidecar.network.turns import Turns, Urgency
from datafile_sidecar.observe.telemetry import Telemetry

_MAX_ATTEMPTS = 5
_USUAL_HEAD_BYTES = 1024


@dataclass(frozen=True, slots=True)
class _Offer:
    """A datafile to write."""

    head: Head
    body: Callable[[], Awaitable[bytes | None]]
    change: Change | None


class Records:
    """One datafile for each member, in each form."""

    def __init__(self, members: Mapping[str, Member], telemetry: Telemetry, validations: Turns) -> None:
        """Take the members by SDK key, and the turns in which datafiles are validated, or compressed."""
        self._members = members
        self._telemetry = telemetry
        self._validations = validations

    async def synchronize(self, broker: Broker, sdk_key: str, deadline: float) -> None:
        """Read the newest datafile on the broker if its head says that it is wanted, then write ours if that is newer."""
        newest: tuple[Head, Form] | None = None
        for form in (CURRENT, EARLIER):
            head = await self._head(broker, sdk_key, form, await _beginning(broker, form.key(sdk_key)))
            if head and (newest is None or bus_record.is_newer(head, newest[0], time.time())):
                newest = head, form
        if newest and self._members[sdk_key].wants(newest[0]):
            await self.read(broker, sdk_key, newest[1], deadline)
        await self.write(broker, sdk_key)

    async def read_announced(self, broker: Broker, sdk_key: str, form: Form) -> bool:
        """Do as `read`, if the head of the value is wanted. Where there is no value, put back ours and let upstream be asked."""
        if not (begin := await _beginning(broker, form.key(sdk_key))):
            await self._miss_evicted(broker, sdk_key)
            return False
        head = await self._head(broker, sdk_key, form, begin)
        if head is None or not self._members[sdk_key].wants(head):
            return False
        return await self.read(broker, sdk_key, form, transfer_deadline())

    async def _head(self, broker: Broker, sdk_key: str, form: Form, begin: bytes) -> Head | None:
        """Return the head of a value that begins so; None where there is none, or a bad one, which is replaced."""
        try:
            return bus_record.decode_head(begin) if begin else None
        except BadRecordError as error:
            await self._reject(broker, sdk_key, form, bus_record.head_line(begin), error)
            return None

    async def read(self, broker: Broker, sdk_key: str, form: Form, deadline: float) -> bool:
        """Hand the datafile on the broker to the member: the one that a message announced, or a newer one.

        Args:
            broker: The connection.
            sdk_key: The key of the member.
            form: The form to read.
            deadline: When to give up and ask upstream instead, in the event loop's time.

        Returns:
            Whether the member got one.
        """
        member = self._members[sdk_key]
        try:
            async with transfer(broker, deadline):
                value = await broker.get(form.key(sdk_key), MAX_VALUE_BYTES + 1)
        except TooLongError:
            self._miss(sdk_key, "it takes too long to arrive")
            return False
        if not value:
            await self._miss_evicted(broker, sdk_key)
            return False
        try:
            decode = functools.partial(asyncio.to_thread, bus_record.decode, value, sdk_key, form.decompress)
            record = await self._validations.run(Urgency.HINTED, decode)
        except BadRecordError as error:
            await self._reject(broker, sdk_key, form, bus_record.head_line(value), error)
            return False
        if not member.wants(record.head):
            return False
        self._telemetry.bus_record_received(sdk_key, record.head.revision, is_change=False)
        change = await self._change_to(record, member) if form is EARLIER else None
        member.receive(record)
        if form is EARLIER:
            await self._forward(broker, sdk_key, record, change)
        return True

    async def write(self, broker: Broker, sdk_key: str, bad: bytes | None = None) -> None:
        """Write the member's datafile unless the broker has a newer one, whatever other pods write meanwhile.

        Args:
            broker: The connection.
            sdk_key: The key of the member.
            bad: The head line of a value that must be replaced even if it seems newer.
        """
        if self._members[sdk_key].held() is None:
            return
        listeners, earlier = await _listeners(broker, sdk_key)
        await self._write(broker, sdk_key, CURRENT, bad, listeners)
        if earlier or bad is not None:
            await self._write(broker, sdk_key, EARLIER, bad)

    async def _write(
        self, broker: Broker, sdk_key: str, form: Form, bad: bytes | None = None, listeners: int | None = None
    ) -> None:
        def offer() -> _Offer | None:
            member = self._members[sdk_key]
            head = member.held()
            if head is None:
                return None
            return _Offer(head, functools.partial(member.body, head.sha256), member.change(head))

        await self._put(broker, sdk_key, form, offer, bad, listeners)

    async def _change_to(self, record: Record, member: Member) -> Change | None:
        """Return the change from what the member has to another datafile, before the member publishes that."""
        if (held := member.held()) is None or (base := await member.body(held.sha256)) is None:
            return None
        datafile = record.datafile
        return await asyncio.to_thread(change_between, base, held.sha256, datafile.body, datafile.sha256)

    async def _forward(self, broker: Broker, sdk_key: str, record: Record, change: Change | None) -> None:
        """Write a datafile of a sidecar of the first version for those of today."""
        offer = _Offer(record.head, functools.partial(_same, record.datafile.body), change)
        listeners, _ = await _listeners(broker, sdk_key)
        await self._put(broker, sdk_key, CURRENT, lambda: offer, None, listeners)

    async def _put(
        self,
        broker: Broker,
        sdk_key: str,
        form: Form,
        offered: Callable[[], _Offer | None],
        bad: bytes | None,
        listeners: int | None,
    ) -> None:
        key, pause_s = form.key(sdk_key), backoff.seed_pause(listeners or 0, random.random())
        for _ in range(_MAX_ATTEMPTS):
            if (offer := offered()) is None:
                return
            current = await _beginning(broker, key)
            if not _is_due(offer.head, current, bad):
                return
            if not current and pause_s:
                await asyncio.sleep(pause_s)
                pause_s = 0.0
                continue
            head = msgspec.structs.replace(offer.head, id=secrets.token_hex(8))
            value = await self._validations.run(Urgency.HINTED, functools.partial(_encoded, form, head, offer.body))
            if value is None:
                return
            message = form.channel(sdk_key), form.message(head, len(value), listeners, offer.change)
            try:
                async with transfer(broker, transfer_deadline()):
                    is_written = await broker.compare_and_set(
                        key, current, value, max_bytes=max(1, len(current)), publish=message
                    )
            except TooLongError as error:
                raise CommandRefusedError("the datafile could not be sent: that takes too long") from error
            if is_written:
                self._telemetry.bus_record_shared(sdk_key, head.revision)
                return

    async def _miss_evicted(self, broker: Broker, sdk_key: str) -> None:
        self._miss(sdk_key, "it is not there any more: the broker has evicted it, or it was deleted")
        await self.write(broker, sdk_key)

    def _miss(self, sdk_key: str, reason: str) -> None:
        self._telemetry.bus_record_missing(sdk_key, reason)
        self._members[sdk_key].fetch_soon()

    async def _reject(
        self, broker: Broker, sdk_key: str, form: Form, line: bytes | None, error: BadRecordError
    ) -> None:
        self._telemetry.bus_record_rejected(sdk_key, "value", str(error))
        await self._write(broker, sdk_key, form, line)


async def _beginning(broker: Broker, key: str) -> bytes:
    """Return a value up to the end of its head line, which identifies it; its first bytes where it has none.

    The broker's time limit is for the broker alone, here as below: other keys may hold us up.
    """
    async with broker.time_limit():
        begin = await broker.get(key, _USUAL_HEAD_BYTES)
        if len(begin) == _USUAL_HEAD_BYTES and b"\n" not in begin:
            begin = await broker.get(key, MAX_HEAD_BYTES + 1)
    line, end, _ = begin.partition(b"\n")
    return line + end


async def _listeners(broker: Broker, sdk_key: str) -> tuple[int | None, bool]:
    """Return how many sidecars listen, and whether one of the first version may be among them. Those of today listen to both."""
    channels = CURRENT.channel(sdk_key), EARLIER.channel(sdk_key)
    try:
        async with broker.time_limit():
            current, earlier = await broker.count_subscribers(channels)
    except CommandRefusedError:  # the right is newer than the first version: serve it without
        return None, True
    return current, earlier > current


async def _encoded(form: Form, head: Head, body: Callable[[], Awaitable[bytes | None]]) -> bytes | None:
    if (content := await body()) is None:
        return None
    return bus_record.encode(head, await asyncio.to_thread(form.compress, content))


async def _same(body: bytes) -> bytes:
    return body


def _is_due(head: Head, current: bytes, bad: bytes | None) -> bool:
    try:
        theirs = bus_record.decode_head(current)
    except BadRecordError:
        return True
    is_newer = bus_record.is_newer(head, theirs, time.time()) and not bus_record.is_same(head, theirs)
    return is_newer or bus_record.head_line(current) == bad
