"""The connection to the broker, made again and again, and what members ask for on it.

The order on every connection: subscribe, then read, then seed what is newer here, so that nothing is missed in between. Any
error ends the connection, and the next one begins the same way.
"""

import asyncio
import functools
import random
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn, TypeVar

from datafile_sidecar.bus import extra
from datafile_sidecar.bus.broker import Broker, Connect
from datafile_sidecar.bus.errors import CommandRefusedError, explained, shown
from datafile_sidecar.bus.fleet_membership import FleetMembership
from datafile_sidecar.bus.inbox import Inbox
from datafile_sidecar.bus.member import Member
from datafile_sidecar.bus.names import chase_key, probe_channel, probe_keys
from datafile_sidecar.bus.pending_commands import Command, PendingCommands
from datafile_sidecar.bus.poll_lease import Lease, PollLeases
from datafile_sidecar.bus.records import Records
from datafile_sidecar.bus.transfer import transfer_deadline
from datafile_sidecar.core import backoff
from datafile_sidecar.core.bus_record import Check
from datafile_sidecar.core.times import rfc3339
from datafile_sidecar.network.turns import Capacity, Turns
from datafile_sidecar.observe.telemetry import Telemetry

T = TypeVar("T")
PING_S = 2.0
_STABLE_AFTER_S = 10.0


class Bus:
    """The connection to one broker. It never shows the password in its URL."""

    def __init__(
        self, url: str, telemetry: Telemetry, *, validations: Turns | None = None, connect: Connect | None = None
    ) -> None:
        """Prepare the bus; `run` connects it.

        Args:
            url: The broker, with user and password.
            telemetry: Where events go.
            validations: The turns in which datafiles are validated, those from upstream among them; None means its own.
            connect: Opens connections; None means Redis; `run` then loads its client.

        Raises:
            BusError: What the extra `redis` brings is not installed.
        """
        if connect is None:
            extra.check_installed()
        self._url = url
        self._telemetry = telemetry
        self._connect = connect
        self._members: dict[str, Member] = {}
        self._leases = PollLeases()
        validations = validations or Capacity().validations
        self._records = Records(self._members, telemetry, validations)
        self._inbox = Inbox(self._members, self._records, telemetry, validations)
        self._commands = PendingCommands()
        self.fleet: FleetMembership | None = None
        self._broker: Broker | None = None
        self._since: float | None = None
        self._last_error: str | None = None

    def join(self, sdk_key: str, member: Member) -> None:
        """Let a key take part. To be called before `run`."""
        self._members[sdk_key] = member

    @property
    def is_connected(self) -> bool:
        """Whether the broker can be read and takes writes, as far as is known."""
        return self._since is not None

    def view(self) -> dict[str, Any]:
        """Return the object `bus` of `/status`."""
        return {
            "state": "connected" if self.is_connected else "disconnected",
            "address": shown(self._url),
            "since": rfc3339(self._since),
            "last_error": self._last_error,
            "fleet": self.fleet.view() if self.fleet else None,
        }

    async def settle(self) -> None:
        """Return when no command is pending. At shutdown, this lets a datafile that was just published reach the broker."""
        await self._commands.settle()

    # What members ask for. Only `poll_lease` waits for the broker.

    def share(self, sdk_key: str) -> None:
        """Write the member's datafile to the broker unless that has a newer one."""
        self._add("share", sdk_key, lambda broker: self._records.write(broker, sdk_key))

    def overwrite(self, sdk_key: str, bad: bytes) -> None:
        """Replace the value on the broker if its head line is exactly `bad`, or if it is older than the member's datafile."""
        self._add("overwrite", sdk_key, lambda broker: self._records.write(broker, sdk_key, bad))

    def report_check(self, sdk_key: str, check: Check) -> None:
        """Tell other pods that upstream served the datafile with this digest. This ends the poll lease."""
        self._leases.forget(sdk_key)
        self._add("report_check", sdk_key, lambda broker: self._leases.report_check(broker, sdk_key, check))

    def release_lease(self, sdk_key: str, *, at_once: bool = True) -> None:
        """Let another pod poll, after a poll that failed: at once, or when the lease expires. Does nothing without a lease."""
        if (token := self._leases.forget(sdk_key)) is not None and at_once:
            self._add("release_lease", sdk_key, lambda broker: self._leases.release(broker, sdk_key, token))

    async def poll_lease(self, sdk_key: str, suits: Callable[[Check], bool], lease_s: float | None) -> Check | Lease:
        """Return another pod's check if it suits, else whether this pod or another one polls now.

        It takes as long as the broker takes, so give it a time limit. Without a connection, or after an error, the lease is ours.

        Args:
            sdk_key: The key to poll.
            suits: Whether a check makes our own poll unnecessary.
            lease_s: How long the lease lasts if it is acquired; None acquires none and returns a check or `Lease.OURS`.
        """
        none: Check | Lease = Lease.OURS
        answer = await self._ask(lambda broker: self._leases.acquire(broker, sdk_key, suits, lease_s), none)
        if isinstance(answer, Check):
            self.release_lease(sdk_key)
        return answer

    async def chase_lease(self, sdk_key: str, lease_s: float) -> bool:
        """Acquire the lease to chase an announced revision; tell whether it is ours. It takes as long as the broker takes.

        Without a connection, or after an error, it is ours.
        """
        token = secrets.token_hex(8).encode()
        return await self._ask(lambda broker: broker.acquire_lease(chase_key(sdk_key), token, lease_s), True)

    async def _ask(self, question: Callable[[Broker], Awaitable[T]], without_answer: T) -> T:
        if (broker := self._broker) is None or not self.is_connected:
            return without_answer
        try:
            async with broker.time_limit():
                return await question(broker)
        except Exception as error:  # no error of the broker may prevent a fetch
            self._telemetry.bus_refused(explained(self._url, error), is_connected=self.is_connected)
            return without_answer

    # The connection

    async def run(self) -> NoReturn:
        """Stay connected, for ever."""
        connect = await asyncio.to_thread(extra.load) if self._connect is None else self._connect
        failures = 0
        while True:
            started = _clock()
            try:
                # In a task of its own: until Python 3.13, `cancelling` says yes after any TaskGroup that failed.
                await asyncio.create_task(self._use_connection(connect))
            except Exception as error:  # no error of the broker, of whatever kind, may end the sidecar
                # Until Python 3.13 a TaskGroup raises the error alone when it is cancelled in the same moment.
                if (task := asyncio.current_task()) is not None and task.cancelling():
                    raise asyncio.CancelledError from error
                self._last_error = explained(self._url, error)
            for member in self._members.values():
                member.receive(None)
            failures = 1 if _clock() - started > _STABLE_AFTER_S else failures + 1
            wait_s = backoff.reconnect_pause(failures, random.random())
            self._telemetry.bus_disconnected(self._last_error or "", wait_s)
            await asyncio.sleep(wait_s)

    async def _use_connection(self, connect: Connect) -> None:
        async with connect(self._url) as broker:
            try:
                await self._synchronize(broker)
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._listen(broker))
                    tasks.create_task(self._ping(broker))
                    if self.fleet is not None:
                        tasks.create_task(self.fleet.run(broker))
                    for queue in (self._commands, self._inbox):
                        tasks.create_task(queue.run(functools.partial(self._execute, broker)))
            except Exception as error:
                self._last_error = explained(self._url, error)  # now, because closing may take a moment
                raise
            finally:
                self._broker = self._since = None
                self._commands.clear()
                self._inbox.clear()

    async def _synchronize(self, broker: Broker) -> None:
        async with broker.time_limit():
            await broker.subscribe(self._inbox.channels())
        self._broker = broker  # from now on, commands are queued; they run after the reads below
        deadline = transfer_deadline()
        for sdk_key, member in self._members.items():
            synchronize = functools.partial(self._records.synchronize, sdk_key=sdk_key, deadline=deadline)
            await self._execute(broker, synchronize)
            member.receive(None)
        await self._probe(broker)

    async def _probe(self, broker: Broker) -> bool:
        """Learn whether the broker takes all that sidecars send, and return it. Messages are heard either way."""
        try:
            async with broker.time_limit():
                await broker.try_writing(probe_keys(), probe_channel())
        except CommandRefusedError as error:
            self._since = None
            self._note_refusal(error)
            return False
        if not self.is_connected:
            self._since, self._last_error = time.time(), None
            self._telemetry.bus_connected(shown(self._url))
        return True

    async def _listen(self, broker: Broker) -> NoReturn:
        channels = self._inbox.channels()
        while True:
            channel, message = await broker.next_message()
            self._inbox.hear(*channels[channel], message)

    async def _ping(self, broker: Broker) -> NoReturn:
        refusals, probe_at = 0, _clock()
        while True:
            async with broker.time_limit():
                await broker.ping()
            if not self.is_connected and _clock() >= probe_at:
                refusals += 1
                probe_at = _clock() + backoff.reconnect_pause(refusals, random.random())
                if await self._probe(broker):
                    refusals = 0
                    for sdk_key in self._members:
                        self.share(sdk_key)
            await asyncio.sleep(
                PING_S * (0.75 + 0.5 * random.random())
            )  # those that connected together don't ping together

    async def _execute(self, broker: Broker, command: Command) -> None:
        """Execute a command. A refusal is reported and does not end the connection."""
        try:
            await command(broker)
        except CommandRefusedError as error:
            self._note_refusal(error)
            if self.is_connected:
                await self._probe(broker)

    def _note_refusal(self, error: CommandRefusedError) -> None:
        self._last_error = explained(self._url, error)
        self._telemetry.bus_refused(self._last_error, is_connected=self.is_connected)

    def _add(self, kind: str, sdk_key: str, command: Command) -> None:
        if self._broker is not None:  # else the next connection begins by reading and writing everything
            self._commands.add(kind, sdk_key, command)


def _clock() -> float:
    return asyncio.get_running_loop().time()
