"""Redis or Valkey as a broker. With the `redis_…` modules beside it, all that knows the package `redis`, which is loaded with it.

Retries, time limits and reconnecting are the caller's.
"""

import asyncio
import functools
from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import cast
from urllib.parse import urlsplit

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError, WatchError

from datafile_sidecar.bus.broker import ANSWER_WITHIN_S, NOT_A_STRING, RETENTION_S
from datafile_sidecar.bus.redis_errors import translated_errors as _translated_errors
from datafile_sidecar.bus.redis_fleet import RedisFleet
from datafile_sidecar.bus.redis_parser import BoundedParser
from datafile_sidecar.bus.traffic import Traffic
from datafile_sidecar.network.resolver import DaemonResolver, addresses

_CLOSE_WITHIN_S = 0.5
_MAX_CONNECTIONS = 9
"""One for messages, and those that commands share, whatever the number of SDK keys."""


class RedisConnector:
    """Connects to brokers."""

    def __init__(self) -> None:
        self._resolver = DaemonResolver()

    @asynccontextmanager
    async def connect(self, url: str) -> AsyncIterator["RedisBroker"]:
        """Prepare a client for this URL, and close all its connections at the end. Raises OSError for an unknown host."""
        # The package resolves names in the event loop's threads, which publishing needs, too. A lookup that hangs must end here.
        await addresses(self._resolver, urlsplit(url).hostname or "", ANSWER_WITHIN_S)
        traffic = Traffic()
        pool = BlockingConnectionPool.from_url(
            url,
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
            yield RedisBroker(client, client.pubsub(), traffic)
        finally:
            with suppress(Exception):
                async with asyncio.timeout(_CLOSE_WITHIN_S):
                    await pool.disconnect(inuse_connections=True)


class RedisBroker:
    """A pool of connections for commands, and one connection for messages. Implements `Broker`."""

    def __init__(self, client: Redis, pubsub: PubSub, traffic: Traffic) -> None:
        self._client = client
        self._pubsub = pubsub
        self._traffic = traffic
        self._pong = asyncio.Event()
        self._brief = asyncio.Lock()
        self.fleet = RedisFleet(client, self._brief)

    async def get(self, key: str, max_bytes: int) -> bytes:
        """Implement `Broker.get`."""
        with _translated_errors():
            return await _get(self._client, key, max_bytes)

    async def compare_and_set(
        self, key: str, expected: bytes, value: bytes, *, max_bytes: int, publish: tuple[str, bytes]
    ) -> bool:
        """Implement `Broker.compare_and_set`."""
        with _translated_errors():
            async with self._client.pipeline(transaction=True) as pipe:
                await pipe.watch(key)
                if await _get(pipe, key, max_bytes) != expected:
                    return False
                pipe.multi()  # type: ignore[no-untyped-call]
                pipe.set(key, value, ex=RETENTION_S)
                pipe.publish(*publish)
                with suppress(WatchError):
                    await pipe.execute()
                    return True
                return False

    async def set_and_delete(self, key: str, value: bytes, delete: str) -> None:
        """Implement `Broker.set_and_delete`."""
        with _translated_errors():
            async with self._client.pipeline(transaction=True) as pipe:
                pipe.set(key, value, ex=RETENTION_S)
                pipe.delete(delete)
                await pipe.execute()

    async def acquire_lease(self, key: str, token: bytes, expire_s: float) -> bool:
        """Implement `Broker.acquire_lease`."""
        with _translated_errors():
            return bool(await self._client.set(key, token, nx=True, px=max(1, round(expire_s * 1000))))

    async def release_lease(self, key: str, token: bytes) -> None:
        """Implement `Broker.release_lease`."""
        with _translated_errors():
            async with self._client.pipeline(transaction=True) as pipe:
                await pipe.watch(key)
                if await _get(pipe, key, len(token) + 1) == token:
                    pipe.multi()  # type: ignore[no-untyped-call]
                    pipe.delete(key)
                    with suppress(WatchError):
                        await pipe.execute()

    async def try_writing(self, keys: tuple[str, str], channel: str) -> None:
        """Implement `Broker.try_writing`."""
        with _translated_errors():
            async with self._client.pipeline(transaction=True) as pipe:
                await pipe.watch(keys[0])
                await _get(pipe, keys[0], 1)
                pipe.multi()  # type: ignore[no-untyped-call]
                for key in keys:
                    pipe.set(key, b"", px=1)
                    pipe.delete(key)
                pipe.publish(channel, b"")
                with suppress(WatchError):  # another pod tries it at the same moment
                    await pipe.execute()

    async def subscribe(self, channels: Iterable[str]) -> None:
        """Implement `Broker.subscribe`."""
        with _translated_errors():
            unconfirmed = {channel.encode() for channel in channels}
            await self._pubsub.subscribe(*unconfirmed)
            while unconfirmed:
                message = await self._pubsub.get_message(timeout=None)
                if message and message["type"] == "subscribe":
                    unconfirmed.discard(message["channel"])

    async def next_message(self) -> tuple[str, bytes]:
        """Implement `Broker.next_message`."""
        with _translated_errors():
            while True:
                message = await self._pubsub.get_message(timeout=None)
                if message and message["type"] == "pong":
                    self._pong.set()
                if message and message["type"] == "message":
                    return message["channel"].decode(), message["data"]

    async def ping(self) -> None:
        """Implement `Broker.ping`. A half-open connection gives no error by itself, so both must answer."""
        with _translated_errors():
            self._pong.clear()
            await self._pubsub.ping()
            async with self._brief:
                await self._client.ping()
            await self._pong.wait()

    def time_limit(self) -> AbstractAsyncContextManager[None]:
        """Implement `Broker.time_limit`."""
        return self._traffic.time_limit()


async def _get(client: Redis, key: str, max_bytes: int) -> bytes:
    try:
        return cast("bytes", await client.getrange(key, 0, max_bytes - 1))
    except ResponseError as error:
        if not str(error).startswith("WRONGTYPE"):
            raise
        return NOT_A_STRING
