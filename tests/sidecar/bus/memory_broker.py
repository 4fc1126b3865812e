"""A broker in memory: the second implementation of the Protocol, with the faults that the bus must bear."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from math import inf

from datafile_sidecar.bus.broker import ANSWER_WITHIN_S, NOT_A_STRING, RETENTION_S
from datafile_sidecar.bus.errors import BrokerError, CommandRefusedError
from datafile_sidecar.bus.fleet_store import SAMPLE, SINCE_FIELD, Entry, Moment, Registered
from datafile_sidecar.bus.names import FleetNames


class MemoryServer:
    """What all connections share. Set `refuses_writes`, `refuses_counting` or `is_silent` to have it misbehave."""

    def __init__(self) -> None:
        self._values: dict[str, tuple[bytes, float]] = {}
        self.pods: dict[str, dict[bytes, bytes]] = {}
        self.changes = Counter[str]()
        self.refuses_pods = False
        self.connections: list[MemoryBroker] = []
        self.reads: list[tuple[str, int]] = []
        """Each value that was read: its key, and how many bytes of it."""
        self.refuses_writes = False
        self.refuses_counting = False
        self.others = 0
        """How many more sidecars listen to each channel."""
        self.tries = Counter[str]()
        """How often each value was about to be replaced."""
        self.is_silent = False

    @asynccontextmanager
    async def connect(self, url: str) -> AsyncIterator["MemoryBroker"]:
        """Implement `Connect`."""
        broker = MemoryBroker(self)
        self.connections.append(broker)
        try:
            yield broker
        finally:
            self.connections.remove(broker)

    def disconnect(self) -> None:
        """Lose all connections and all values, like a server that is restarted."""
        self._values.clear()
        self.pods.clear()
        self.changes.clear()
        for broker in self.connections:
            broker.inbox.put_nowait(BrokerError("connection lost"))

    def read(self, key: str) -> bytes:
        """Return the value, empty where there is none or it has expired."""
        value, expires = self._values.get(key, (b"", inf))
        return value if asyncio.get_running_loop().time() < expires else b""

    def write(self, key: str, value: bytes, expire_s: float) -> None:
        """Set a value."""
        if self.refuses_writes:
            raise CommandRefusedError("out of memory")
        self._values[key] = value, asyncio.get_running_loop().time() + expire_s

    def publish(self, channel: str, message: bytes) -> None:
        """Send a message to all that have subscribed."""
        for connection in self.connections:
            if channel in connection._channels:
                connection.inbox.put_nowait((channel, message))

    def delete(self, key: str) -> None:
        """Delete a value, if there is one."""
        self._values.pop(key, None)

    def write_list(self, key: str) -> None:
        """Set a value that is not a string."""
        self._values[key] = NOT_A_STRING, inf


class MemoryFleet:
    """The fleets of a server. Implements `FleetStore`; a step reads two fields."""

    def __init__(self, server: MemoryServer) -> None:
        self._server = server

    async def time(self) -> float:
        if self._server.refuses_pods:
            raise CommandRefusedError("NOPERM")
        return asyncio.get_running_loop().time() + 1e9

    async def register(self, entries: Sequence[Entry]) -> tuple[float, list[Registered]]:
        now, answers = await self.time(), []
        for entry in entries:
            pods = self._server.pods.setdefault(entry.names.pods, {})
            since = pods.setdefault(SINCE_FIELD.encode(), entry.since)
            pods[entry.name.encode()] = entry.value
            for name in entry.removed:
                pods.pop(name.encode(), None)
            self._server.changes[entry.names.changes] += entry.is_change
            answers.append(Registered(since, tuple(random.sample(list(pods), min(SAMPLE, len(pods))))))
        return now, answers

    async def remember(self, names: FleetNames, pods: Collection[bytes], value: bytes) -> None:
        for pod in pods:
            self._server.pods.setdefault(names.pods, {}).setdefault(pod, value)
        self._server.changes[names.changes] += 1

    async def unregister(self, names: FleetNames, pods: Collection[str | bytes]) -> None:
        for pod in pods:
            self._server.pods.get(names.pods, {}).pop(pod.encode() if isinstance(pod, str) else pod, None)
        self._server.changes[names.changes] += 1

    async def clear(self, names: FleetNames) -> None:
        self._server.pods.pop(names.pods, None)
        del self._server.changes[names.changes]

    async def moment(self, names: FleetNames) -> Moment:
        listeners = sum(names.channel in connection._channels for connection in self._server.connections)
        return Moment(self._server.changes[names.changes], listeners)

    async def count(self, names: FleetNames) -> int:
        return len(self._server.pods.get(names.pods, {}))

    async def step(self, names: FleetNames, cursor: int) -> tuple[int, Mapping[bytes, bytes]]:
        fields = list(self._server.pods.get(names.pods, {}).items())
        end = cursor + 2
        return (end if end < len(fields) else 0), dict(fields[cursor:end])


class MemoryBroker:
    """One connection. Implements `Broker`."""

    def __init__(self, server: MemoryServer) -> None:
        self._server = server
        self.fleet = MemoryFleet(server)
        self._channels: frozenset[str] = frozenset()
        self.inbox: asyncio.Queue[tuple[str, bytes] | BrokerError] = asyncio.Queue()

    async def get(self, key: str, max_bytes: int) -> bytes:
        value = self._server.read(key)[:max_bytes]
        self._server.reads.append((key, len(value)))
        return value

    async def compare_and_set(
        self, key: str, expected: bytes, value: bytes, *, max_bytes: int, publish: tuple[str, bytes]
    ) -> bool:
        self._server.tries[key] += 1
        await asyncio.sleep(0)  # others may write first
        if self._server.read(key)[:max_bytes] != expected:
            return False
        self._server.write(key, value, RETENTION_S)
        self._server.publish(*publish)
        return True

    async def set_and_delete(self, key: str, value: bytes, delete: str) -> None:
        self._server.write(key, value, RETENTION_S)
        self._server.delete(delete)

    async def acquire_lease(self, key: str, token: bytes, expire_s: float) -> bool:
        if self._server.read(key):
            return False
        self._server.write(key, token, expire_s)
        return True

    async def release_lease(self, key: str, token: bytes) -> None:
        if self._server.read(key) == token:
            self._server.delete(key)

    async def try_writing(self, keys: tuple[str, str], channel: str) -> None:
        if self._server.refuses_writes:
            raise CommandRefusedError("out of memory")

    async def subscribe(self, channels: Iterable[str]) -> None:
        self._channels = frozenset(channels)

    async def next_message(self) -> tuple[str, bytes]:
        message = await self.inbox.get()
        if isinstance(message, BrokerError):
            raise message
        return message

    async def count_subscribers(self, channels: tuple[str, str]) -> tuple[int, int]:
        if self._server.refuses_counting:
            raise CommandRefusedError("no permission")
        first, second = (
            sum(name in connection._channels for connection in self._server.connections) for name in channels
        )
        return first + self._server.others, second + self._server.others

    async def ping(self) -> None:
        if self._server.is_silent:
            await asyncio.Event().wait()

    def time_limit(self) -> AbstractAsyncContextManager[object]:
        return asyncio.timeout(ANSWER_WITHIN_S)
