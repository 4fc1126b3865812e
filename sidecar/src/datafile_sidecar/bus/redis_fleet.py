"""The fleets on a Redis or Valkey. Implements `FleetStore`."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, cast

from redis.asyncio import Redis

from datafile_sidecar.bus.broker import RETENTION_S
from datafile_sidecar.bus.fleet_store import SAMPLE, SINCE_FIELD, Entry, Moment, Registered
from datafile_sidecar.bus.names import FleetNames
from datafile_sidecar.bus.redis_errors import translated_errors

_STEP: Final = 250
"""Fields in one step of a read: it holds up the broker and our event loop for a few milliseconds at most."""
_MOST_DIGITS: Final = 20


class RedisFleet:
    """Pipelines without a transaction: the order of the commands is enough, and a hash is written by all pods at once."""

    def __init__(self, client: Redis, brief: asyncio.Lock, *, is_cluster: bool) -> None:
        """Send commands by this client. What a pod does again and again takes turns by this lock, and so needs one connection."""
        self._client = client
        self._brief = brief
        self._is_cluster = is_cluster

    async def time(self) -> float:
        """Implement `FleetStore.time`."""
        with translated_errors():
            return _unix_s(await self._client.time())

    async def register(self, entries: Sequence[Entry]) -> tuple[float, list[Registered]]:
        """Implement `FleetStore.register`."""
        with translated_errors():
            async with self._brief, self._client.pipeline(transaction=False) as pipe:
                ends = []
                for entry in entries:
                    names = self._placed(entry.names)
                    pods = names.pods
                    pipe.hsetnx(pods, SINCE_FIELD, entry.since)
                    pipe.hset(pods, entry.name, entry.value)
                    if entry.removed:
                        pipe.hdel(pods, *entry.removed)
                    pipe.expire(pods, RETENTION_S)
                    if entry.is_change:
                        self._count_change(pipe, names)
                    pipe.hget(pods, SINCE_FIELD)
                    pipe.hrandfield(pods, SAMPLE)
                    ends.append(len(pipe))
                pipe.time()
                *answers, now = await pipe.execute()
        found = (answers[end - 2 : end] for end in ends)
        return _unix_s(now), [Registered(since or b"", tuple(sample or ())) for since, sample in found]

    async def remember(self, names: FleetNames, pods: Collection[bytes], value: bytes) -> None:
        """Implement `FleetStore.remember`."""
        names = self._placed(names)
        with translated_errors():
            async with self._client.pipeline(transaction=False) as pipe:
                for pod in pods:
                    pipe.hsetnx(names.pods, pod, value)
                self._count_change(pipe, names)
                await pipe.execute()

    async def unregister(self, names: FleetNames, pods: Collection[str | bytes]) -> None:
        """Implement `FleetStore.unregister`."""
        names = self._placed(names)
        with translated_errors():
            async with self._client.pipeline(transaction=False) as pipe:
                pipe.hdel(names.pods, *pods)
                self._count_change(pipe, names)
                await pipe.execute()

    async def clear(self, names: FleetNames) -> None:
        """Implement `FleetStore.clear`."""
        names = self._placed(names)
        with translated_errors():
            await self._client.delete(names.pods, names.changes)

    async def moment(self, names: FleetNames) -> Moment:
        """Implement `FleetStore.moment`."""
        names = self._placed(names)
        with translated_errors():
            async with self._client.pipeline(transaction=False) as pipe:
                pipe.getrange(names.changes, 0, _MOST_DIGITS)
                pipe.execute_command("PUBSUB", "SHARDNUMSUB" if self._is_cluster else "NUMSUB", names.channel)
                changes, [_, listeners] = await pipe.execute()
        return Moment(int(changes) if changes.isdigit() else 0, int(listeners))

    async def count(self, names: FleetNames) -> int:
        """Implement `FleetStore.count`."""
        names = self._placed(names)
        with translated_errors():
            return int(await self._client.hlen(names.pods))

    async def step(self, names: FleetNames, cursor: int) -> tuple[int, Mapping[bytes, bytes]]:
        """Implement `FleetStore.step`."""
        names = self._placed(names)
        with translated_errors():
            next_cursor, fields = await self._client.hscan(names.pods, cursor, count=_STEP)
        return int(next_cursor), cast("Mapping[bytes, bytes]", fields)

    def _placed(self, names: FleetNames) -> FleetNames:
        return names.in_one_slot() if self._is_cluster else names

    def _count_change(self, pipe: Any, names: FleetNames) -> None:
        pipe.incr(names.changes)
        pipe.expire(names.changes, RETENTION_S)


def _unix_s(answer: Sequence[int]) -> float:
    seconds, microseconds = answer
    return int(seconds) + int(microseconds) / 1e6
