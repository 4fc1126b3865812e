"""What messages announce, until members have it: changes to apply at once, and values to read, spread over time.

Whoever can publish on the broker can announce anything. A message that brings nothing costs one bounded attempt to apply it, and a
look at the head of the value, at most once a second for each SDK key.
"""

import asyncio
import functools
import random
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, NoReturn

from datafile_sidecar.bus.broker import Broker
from datafile_sidecar.bus.forms import CURRENT, EARLIER, Form, applied
from datafile_sidecar.bus.member import Member
from datafile_sidecar.bus.names import forwarding_key
from datafile_sidecar.bus.pending_commands import Command, PendingCommands
from datafile_sidecar.bus.records import Records
from datafile_sidecar.core import bus_message, bus_record
from datafile_sidecar.core.bus_message import BusMessage
from datafile_sidecar.core.bus_record import BadRecordError, Head, Record
from datafile_sidecar.network.turns import Turns, Urgency
from datafile_sidecar.observe.telemetry import Telemetry

_MAX_CHANGES: Final = 8
"""Revisions that follow each other while the first one is applied; with more, the value is read."""
_READ_AGAIN_S: Final = 1.0
_FORWARDED_WITHIN_S: Final = 1.0
_FORWARDING_LEASE_S: Final = 10.0
_Key = tuple[str, Form]


@dataclass(eq=False, slots=True)
class _Reading:
    """A value that is to be read: what was announced, and the timer until then."""

    head: Head
    timer: asyncio.TimerHandle


@dataclass(eq=False, slots=True)
class Inbox:
    """The messages for all members. `run` does what they ask for."""

    members: Mapping[str, Member]
    records: Records
    telemetry: Telemetry
    validations: Turns
    _changes: dict[str, deque[BusMessage]] = field(default_factory=dict, init=False)
    _announced: dict[str, str] = field(default_factory=dict, init=False)
    _readings: dict[_Key, _Reading] = field(default_factory=dict, init=False)
    _read_again: dict[_Key, float] = field(default_factory=dict, init=False)
    _applying: PendingCommands = field(default_factory=PendingCommands, init=False)
    _reading: PendingCommands = field(default_factory=PendingCommands, init=False)  # apart, since a value may take long

    def channels(self) -> dict[str, _Key]:
        """Return what to subscribe to, with the SDK key and the form that each channel is for."""
        return {form.channel(sdk_key): (sdk_key, form) for sdk_key in self.members for form in (CURRENT, EARLIER)}

    def hear(self, sdk_key: str, form: Form, text: bytes) -> None:
        """Note what a message announces, if the member wants it."""
        try:
            message = bus_message.decode(text) if form is CURRENT else None
            head = message.head if message else bus_record.decode_head(text)
        except BadRecordError as error:
            self.telemetry.bus_record_rejected(sdk_key, "message", str(error))
            return
        if message:
            self._announced[sdk_key] = head.sha256
        elif self._announced.get(sdk_key) == head.sha256:
            return  # the same datafile, for sidecars of the first version
        if not self.members[sdk_key].wants(head):
            return
        if message is None:
            self._reading.add("forward", sdk_key, functools.partial(self._forward, sdk_key=sdk_key, head=head))
        elif message.notice.base is None:
            self._read_within(sdk_key, form, head, message.spread_s)
        else:
            self._changes.setdefault(sdk_key, deque(maxlen=_MAX_CHANGES)).append(message)
            self._applying.add("apply", sdk_key, functools.partial(self._apply, sdk_key=sdk_key))

    async def run(self, execute: Callable[[Command], Awaitable[None]]) -> NoReturn:
        """Apply and read, for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._applying.run(execute))
            await self._reading.run(execute)

    def clear(self) -> None:
        """Forget all messages: the next connection begins by reading."""
        for reading in self._readings.values():
            reading.timer.cancel()
        self._applying.clear()
        self._reading.clear()
        for noted in (self._changes, self._announced, self._readings, self._read_again):
            noted.clear()

    # Changes

    async def _apply(self, _: Broker, sdk_key: str) -> None:
        """Apply the changes of one key in the order in which they came. Read the value if the last one that is wanted can't be."""
        member, changes, missed = self.members[sdk_key], self._changes[sdk_key], None
        while changes:
            message = changes.popleft()
            if not member.wants(message.head):
                continue
            record = await self._applied(sdk_key, message)
            missed = None if record else message
            if record:
                self.telemetry.bus_record_received(sdk_key, record.head.revision, is_change=True)
                member.receive(record)
        if missed:
            self._read_within(sdk_key, CURRENT, missed.head, missed.spread_s)

    async def _applied(self, sdk_key: str, message: BusMessage) -> Record | None:
        base = await self.members[sdk_key].body(message.notice.base or "")
        if base is None:
            return None
        apply = functools.partial(asyncio.to_thread, _changed, message, base, sdk_key)
        try:
            return await self.validations.run(Urgency.HINTED, apply)
        except BadRecordError as error:
            self.telemetry.bus_record_rejected(sdk_key, "change", str(error))
            return None

    # Values

    def _read_within(self, sdk_key: str, form: Form, head: Head, spread_s: float, wait_s: float = 0.0) -> None:
        """Read a value at a random moment of this time; an earlier moment that is planned already stays."""
        loop, key = asyncio.get_running_loop(), (sdk_key, form)
        at = max(loop.time() + wait_s + spread_s * random.random(), self._read_again.get(key, 0.0))
        if planned := self._readings.get(key):
            at = min(at, planned.timer.when())
            planned.timer.cancel()
        self._readings[key] = _Reading(head, loop.call_at(at, self._begin_reading, sdk_key, form))

    def _begin_reading(self, sdk_key: str, form: Form) -> None:
        head = self._readings.pop((sdk_key, form)).head
        self._reading.add(form.name, sdk_key, functools.partial(self._read, sdk_key=sdk_key, form=form, announced=head))

    async def _read(self, broker: Broker, sdk_key: str, form: Form, announced: Head) -> None:
        """Read a value whose head is still wanted: the announced one, or a newer one."""
        if not self.members[sdk_key].wants(announced):
            return
        if not await self.records.read_announced(broker, sdk_key, form):
            self._read_again[sdk_key, form] = asyncio.get_running_loop().time() + _READ_AGAIN_S

    async def _forward(self, broker: Broker, sdk_key: str, head: Head) -> None:
        """Let one sidecar read what one of the first version has written, and write it for the others: as a change, perhaps."""
        if not self.members[sdk_key].wants(head):
            return
        async with broker.time_limit():
            token = secrets.token_hex(8).encode()
            is_ours = await broker.acquire_lease(forwarding_key(sdk_key, head.id), token, _FORWARDING_LEASE_S)
        if is_ours:
            await self._read(broker, sdk_key, EARLIER, head)
        else:
            self._read_within(sdk_key, EARLIER, head, _FORWARDED_WITHIN_S, wait_s=_FORWARDED_WITHIN_S)


def _changed(message: BusMessage, base: bytes, sdk_key: str) -> Record:
    return bus_record.record(message.head, message.line, applied(message.frame, base), sdk_key)
