"""The datafiles that stand on the broker: taken where they are of use, and replaced by what is newer, by compare and set."""

import asyncio
import secrets
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

import msgspec

from datafile_sidecar.bus.names import KEEP_S, beginning, name
from datafile_sidecar.core import bus_record
from datafile_sidecar.core.bus_record import BadRecordError, Head, Record
from datafile_sidecar.observe.telemetry import Telemetry

if TYPE_CHECKING:
    from redis.asyncio import Redis

_TRIES = 5


class Member(Protocol):
    """What the bus needs of one SDK key. None of it may wait for anything but its own disk."""

    def held(self) -> Head | None:
        """What is on the volume, as far as upstream served it."""

    async def body(self, head: Head) -> bytes | None:
        """The bytes of that datafile, None where they are not on the volume any more."""

    def wants(self, head: Head) -> bool:
        """Whether the datafile under this head would be of use."""

    def offer(self, record: Record | None) -> None:
        """A datafile that is wanted, or that the bus was asked and has none."""


class Shelf:
    """One datafile for each member, under one key, and the messages that tell of it."""

    def __init__(self, members: Mapping[str, Member], telemetry: Telemetry, now: Callable[[], float]) -> None:
        """`now` gives Unix seconds."""
        self._members = members
        self._telemetry = telemetry
        self._now = now

    def is_news(self, sdk_key: str, message: bytes) -> bool:
        """Whether a message tells of something that is of use."""
        try:
            head = bus_record.decode_head(message)
        except BadRecordError as error:
            self._telemetry.bus_record_rejected(sdk_key, "message", str(error))
            return False
        return self._members[sdk_key].wants(head)

    async def begin(self, client: "Redis", sdk_key: str) -> None:
        """Take what stands there, where its head says that it is of use; then put there what is newer here."""
        key = name(sdk_key, "datafile")
        line = bus_record.head_line(await beginning(client, key, bus_record.MAX_HEAD_BYTES))
        try:
            if line != b"" and self._members[sdk_key].wants(bus_record.decode_head(line or b"")):
                await self.take(client, sdk_key)
        except BadRecordError as error:
            await self._reject(client, sdk_key, line, error)
        await self.put(client, sdk_key)

    async def take(self, client: "Redis", sdk_key: str) -> None:
        """Take what stands there now: that of which a message told, or something newer."""
        member = self._members[sdk_key]
        value = await beginning(client, name(sdk_key, "datafile"), bus_record.MAX_VALUE_BYTES)
        try:
            record = await asyncio.to_thread(bus_record.decode, value, sdk_key)
        except BadRecordError as error:
            await self._reject(client, sdk_key, bus_record.head_line(value), error)
            return
        if member.wants(record.head):
            member.offer(record)

    async def put(self, client: "Redis", sdk_key: str, bad: bytes | None = None) -> None:
        """Compare and set: nothing newer is overwritten, whoever writes meanwhile. `bad` names what must go, by its head."""
        from redis.exceptions import WatchError

        member, key = self._members[sdk_key], name(sdk_key, "datafile")
        for _ in range(_TRIES):
            async with client.pipeline(transaction=True) as pipe:
                await pipe.watch(key)
                mine = member.held()
                if mine is None or not self._is_due(mine, await beginning(pipe, key, bus_record.MAX_HEAD_BYTES), bad):
                    return
                if (body := await member.body(mine)) is None:
                    return
                mine = msgspec.structs.replace(mine, id=secrets.token_hex(8))
                pipe.multi()  # type: ignore[no-untyped-call]
                pipe.set(key, await asyncio.to_thread(bus_record.encode, mine, body), ex=KEEP_S)
                pipe.publish(name(sdk_key, "news"), mine.encode())
                try:
                    await pipe.execute()
                except WatchError:
                    continue
            self._telemetry.bus_record_shared(sdk_key, mine.revision)
            return

    async def _reject(self, client: "Redis", sdk_key: str, line: bytes | None, error: BadRecordError) -> None:
        self._telemetry.bus_record_rejected(sdk_key, "value", str(error))
        await self.put(client, sdk_key, line)

    def _is_due(self, mine: Head, value: bytes, bad: bytes | None) -> bool:
        line = bus_record.head_line(value)
        if not value or line is None or line == bad:
            return True
        try:
            return bus_record.is_newer(mine, bus_record.decode_head(line), self._now())
        except BadRecordError:
            return True
