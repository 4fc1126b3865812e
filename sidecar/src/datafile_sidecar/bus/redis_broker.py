"""Redis or Valkey as a broker: the only module that knows the package `redis`, which is loaded with it.

Errors of the package become errors of the bus here. Retries, time limits and reconnecting are the caller's.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import cast
from urllib.parse import urlsplit

from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ReadOnlyError, RedisError, ResponseError, WatchError

from datafile_sidecar.bus.broker import ANSWER_WITHIN_S, NOT_A_STRING, RETENTION_S
from datafile_sidecar.bus.errors import BrokerError, CommandRefusedError
from datafile_sidecar.network.resolver import DaemonResolver, addresses

_CLOSE_WITHIN_S = 0.5
_SPARE_CONNECTIONS = 16


class RedisConnector:
    """Connects to brokers."""

    def __init__(self) -> None:
        self._resolver = DaemonResolver()

    @asynccontextmanager
    async def connect(self, url: str, concurrency: int) -> AsyncIterator["RedisBroker"]:
        """Prepare a client for this URL, and close all its connections at the end. Raises OSError for an unknown host."""
        # The package resolves names in the event loop's threads, which publishing needs, too. A lookup that hangs must end here.
        await addresses(self._resolver, urlsplit(url).hostname or "", ANSWER_WITHIN_S)
        client: Redis = Redis.from_url(
            url,
            protocol=2,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=ANSWER_WITHIN_S,
            socket_connect_timeout=ANSWER_WITHIN_S,
            max_connections=_SPARE_CONNECTIONS + concurrency,
        )
        try:
            yield RedisBroker(client, client.pubsub())
        finally:
            with suppress(Exception):
                async with asyncio.timeout(_CLOSE_WITHIN_S):
                    await client.connection_pool.disconnect(inuse_connections=True)


class RedisBroker:
    """A pool of connections for commands, and one connection for messages. Implements `Broker`."""

    def __init__(self, client: Redis, pubsub: PubSub) -> None:
        self._client = client
        self._pubsub = pubsub
        self._pong = asyncio.Event()

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
            await self._client.ping()
            await self._pong.wait()


async def _get(client: Redis, key: str, max_bytes: int) -> bytes:
    try:
        return cast("bytes", await client.getrange(key, 0, max_bytes - 1))
    except ResponseError as error:
        if not str(error).startswith("WRONGTYPE"):
            raise
        return NOT_A_STRING


@contextmanager
def _translated_errors() -> Iterator[None]:
    try:
        yield
    except RedisError as error:
        # A server that is read-only after a failover is of no use: the next connection finds the primary.
        is_refusal = isinstance(error, ResponseError) and not isinstance(error, ReadOnlyError)
        kind = CommandRefusedError if is_refusal else BrokerError
        raise kind(str(error) or type(error).__name__) from error
