"""Redis or Valkey as a broker. With the `redis_…` modules beside it, all that knows the package `redis`, which is loaded with it.

Retries, time limits and reconnecting are the caller's.
"""

import asyncio
import functools
from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Final, cast

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.client import Pipeline, PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError, WatchError

from datafile_sidecar.bus.broker import ANSWER_WITHIN_S, NOT_A_STRING, RETENTION_S
from datafile_sidecar.bus.names import in_one_slot, probe_keys
from datafile_sidecar.bus.redis_discovery import find_server
from datafile_sidecar.bus.redis_errors import translated_errors
from datafile_sidecar.bus.redis_fleet import RedisFleet
from datafile_sidecar.bus.redis_parser import BoundedParser
from datafile_sidecar.bus.traffic import Traffic
from datafile_sidecar.core.broker_url import BrokerKind, BrokerUrl
from datafile_sidecar.network.resolver import DaemonResolver, addresses

_CLOSE_WITHIN_S = 0.5
_MAX_CONNECTIONS = 9
"""One for messages, and those that commands share, whatever the number of SDK keys."""
_SUBSCRIBED: Final = ("subscribe", "ssubscribe")
_MESSAGE: Final = ("message", "smessage")


class RedisConnector:
    """Connects to brokers."""

    def __init__(self) -> None:
        self._resolver = DaemonResolver()

    @asynccontextmanager
    async def connect(self, url: str) -> AsyncIterator["RedisBroker"]:
        """Find the server, prepare a client for it, and close all its connections at the end.

        Raises:
            OSError: The host is unknown.
            BrokerError: Neither a Sentinel nor a node of the cluster names a server.
        """
        broker_url = BrokerUrl.parse(url)
        is_cluster = broker_url.kind is BrokerKind.CLUSTER
        host, port = await find_server(broker_url, self._resolver, in_one_slot(probe_keys()[0]))
        # The package resolves names in the event loop's threads, which publishing needs, too. A lookup that hangs must end here.
        await addresses(self._resolver, host, ANSWER_WITHIN_S)
        traffic = Traffic()
        pool = BlockingConnectionPool.from_url(
            broker_url.server(host, port),
            db=broker_url.database,
            protocol=2,
            parser_class=functools.partial(BoundedParser, traffic),
            retry=Retry(NoBackoff(), 0),
            socket_timeout=None,  # `time_limit` is for all that takes time
            socket_connect_timeout=ANSWER_WITHIN_S,
            max_connections=_MAX_CONNECTIONS,
            timeout=None,
        )
        client: Redis = Redis(connection_pool=pool)
        try:
            yield RedisBroker(client, client.pubsub(), traffic, is_cluster=is_cluster)
        finally:
            with suppress(Exception):
                async with asyncio.timeout(_CLOSE_WITHIN_S):
                    await pool.disconnect(inuse_connections=True)


class RedisBroker:
    """A pool of connections for commands, and one connection for messages. Implements `Broker`.

    In a cluster, all names of the bus have one hash tag, and messages are sharded: they stay on the node that owns its slot.
    """

    def __init__(self, client: Redis, pubsub: PubSub, traffic: Traffic, *, is_cluster: bool = False) -> None:
        self._client = client
        self._is_cluster = is_cluster
        self._channels = dict[bytes, str]()
        self._pubsub = pubsub
        self._traffic = traffic
        self._pong = asyncio.Event()
        self._brief = asyncio.Lock()
        self.fleet = RedisFleet(client, self._brief, is_cluster=is_cluster)

    async def get(self, key: str, max_bytes: int) -> bytes:
        """Implement `Broker.get`."""
        with translated_errors():
            return await _get(self._client, self._name(key), max_bytes)

    async def compare_and_set(
        self, key: str, expected: bytes, value: bytes, *, max_bytes: int, publish: tuple[str, bytes]
    ) -> bool:
        """Implement `Broker.compare_and_set`."""
        key = self._name(key)
        with translated_errors():
            async with self._client.pipeline(transaction=True) as pipe:
                await pipe.watch(key)
                if await _get(pipe, key, max_bytes) != expected:
                    return False
                pipe.multi()  # type: ignore[no-untyped-call]
                pipe.set(key, value, ex=RETENTION_S)
                self._publish(pipe, *publish)
                with suppress(WatchError):
                    await pipe.execute()
                    return True
                return False

    async def set_and_delete(self, key: str, value: bytes, delete: str) -> None:
        """Implement `Broker.set_and_delete`."""
        with translated_errors():
            async with self._client.pipeline(transaction=True) as pipe:
                pipe.set(self._name(key), value, ex=RETENTION_S)
                pipe.delete(self._name(delete))
                await pipe.execute()

    async def acquire_lease(self, key: str, token: bytes, expire_s: float) -> bool:
        """Implement `Broker.acquire_lease`."""
        with translated_errors():
            return bool(await self._client.set(self._name(key), token, nx=True, px=max(1, round(expire_s * 1000))))

    async def release_lease(self, key: str, token: bytes) -> None:
        """Implement `Broker.release_lease`."""
        key = self._name(key)
        with translated_errors():
            async with self._client.pipeline(transaction=True) as pipe:
                await pipe.watch(key)
                if await _get(pipe, key, len(token) + 1) == token:
                    pipe.multi()  # type: ignore[no-untyped-call]
                    pipe.delete(key)
                    with suppress(WatchError):
                        await pipe.execute()

    async def try_writing(self, keys: tuple[str, str], channel: str) -> None:
        """Implement `Broker.try_writing`."""
        names = [self._name(key) for key in keys]
        with translated_errors():
            async with self._client.pipeline(transaction=True) as pipe:
                await pipe.watch(names[0])
                await _get(pipe, names[0], 1)
                pipe.multi()  # type: ignore[no-untyped-call]
                for key in names:
                    pipe.set(key, b"", px=1)
                    pipe.delete(key)
                self._publish(pipe, channel, b"")
                with suppress(WatchError):  # another pod tries it at the same moment
                    await pipe.execute()

    async def subscribe(self, channels: Iterable[str]) -> None:
        """Implement `Broker.subscribe`."""
        with translated_errors():
            self._channels = {self._name(channel).encode(): channel for channel in channels}
            await (self._pubsub.ssubscribe if self._is_cluster else self._pubsub.subscribe)(*self._channels)
            unconfirmed = set(self._channels)
            while unconfirmed:
                message = await self._pubsub.get_message(timeout=None)
                if message and message["type"] in _SUBSCRIBED:
                    unconfirmed.discard(message["channel"])

    async def next_message(self) -> tuple[str, bytes]:
        """Implement `Broker.next_message`."""
        with translated_errors():
            while True:
                message = await self._pubsub.get_message(timeout=None)
                if message and message["type"] == "pong":
                    self._pong.set()
                if message and message["type"] in _MESSAGE:
                    return self._channels[message["channel"]], message["data"]

    async def count_subscribers(self, channels: tuple[str, str]) -> tuple[int, int]:
        """Implement `Broker.count_subscribers`."""
        with translated_errors():
            kind, names = "SHARDNUMSUB" if self._is_cluster else "NUMSUB", map(self._name, channels)
            _, first, _, second = await self._client.execute_command("PUBSUB", kind, *names)  # type: ignore[no-untyped-call]
            return int(first), int(second)

    async def ping(self) -> None:
        """Implement `Broker.ping`. A half-open connection gives no error by itself, so both must answer."""
        with translated_errors():
            self._pong.clear()
            await self._pubsub.ping()
            async with self._brief:
                # A node that no longer owns the slot refuses to read, and would answer a ping.
                await (_get(self._client, self._name(probe_keys()[0]), 1) if self._is_cluster else self._client.ping())
            await self._pong.wait()

    def time_limit(self) -> AbstractAsyncContextManager[None]:
        """Implement `Broker.time_limit`."""
        return self._traffic.time_limit()

    def _name(self, name: str) -> str:
        return in_one_slot(name) if self._is_cluster else name

    def _publish(self, pipe: Pipeline, channel: str, message: bytes) -> None:
        pipe.execute_command("SPUBLISH" if self._is_cluster else "PUBLISH", self._name(channel), message)


async def _get(client: Redis, key: str, max_bytes: int) -> bytes:
    try:
        return cast("bytes", await client.getrange(key, 0, max_bytes - 1))
    except ResponseError as error:
        if not str(error).startswith("WRONGTYPE"):
            raise
        return NOT_A_STRING
