"""The connection to the broker, made again and again, and the errands that are run on it.

The order on every connection: subscribe, then read, then seed what is newer here, so that nothing falls in between. Any
trouble ends the connection, and the next one begins the same way.
"""

import asyncio
import functools
import importlib.util
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from datafile_sidecar.bus.errors import BusError, explained, shown
from datafile_sidecar.bus.names import name
from datafile_sidecar.bus.poll_lease import Claim, Polls
from datafile_sidecar.bus.records import Member, Shelf
from datafile_sidecar.core import backoff
from datafile_sidecar.core.bus_record import Check
from datafile_sidecar.core.times import rfc3339
from datafile_sidecar.network.resolver import DaemonResolver, addresses
from datafile_sidecar.observe.telemetry import Telemetry

if TYPE_CHECKING:
    from redis.asyncio import Redis
    from redis.asyncio.client import PubSub

    Work = Callable[[Redis], Awaitable[object]]

ANSWER_WITHIN_S = 5.0
PING_S = 2.0
_STEADY_AFTER_S = 10.0
_FAREWELL_S = 0.5


class Bus:
    """The connection to one broker, made again and again. Built from a URL whose password it shows to nobody."""

    def __init__(self, url: str, telemetry: Telemetry, now: Callable[[], float] = time.time) -> None:
        """`now` gives Unix seconds. Raises BusError where the client for Redis is not installed."""
        if importlib.util.find_spec("redis") is None:
            raise BusError(
                "DATAFILE_BUS_URL is set, and the client for Redis is missing: pip install 'datafile-sidecar[redis]'"
            )
        self._url = url
        self._telemetry = telemetry
        self._now = now
        self._polls = Polls()
        self._resolver = DaemonResolver()
        self._members: dict[str, Member] = {}
        self._shelf = Shelf(self._members, telemetry, now)
        self._client: Redis | None = None
        self._since: float | None = None
        self._last_error: str | None = None
        self._errands: dict[tuple[str, str], Work] = {}
        self._errand = asyncio.Event()
        self._pong = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def join(self, sdk_key: str, member: Member) -> None:
        """Let a key take part."""
        self._members[sdk_key] = member

    @property
    def is_connected(self) -> bool:
        """Whether news comes by the bus, as far as anybody can tell."""
        return self._since is not None

    def view(self) -> dict[str, Any]:
        """The object `bus` of `/status`."""
        return {
            "state": "connected" if self.is_connected else "disconnected",
            "address": shown(self._url),
            "since": rfc3339(self._since),
            "last_error": self._last_error,
        }

    async def settle(self) -> None:
        """Return when nothing is left to tell. What was published just before the end gets this moment."""
        await self._idle.wait()

    # What members ask; none of it waits for the broker, but for `consult`

    def share(self, sdk_key: str) -> None:
        """What this member holds may be newer than what stands on the bus."""
        self._ask("share", sdk_key, lambda client: self._shelf.put(client, sdk_key))

    def overwrite(self, sdk_key: str, bad: bytes) -> None:
        """What stands on the bus under exactly this head is wrong."""
        self._ask("overwrite", sdk_key, lambda client: self._shelf.put(client, sdk_key, bad))

    def tell(self, sdk_key: str, check: Check) -> None:
        """Upstream was asked."""
        self._polls.spend(sdk_key)
        self._ask("tell", sdk_key, lambda client: self._polls.tell(client, sdk_key, check))

    def release(self, sdk_key: str) -> None:
        """Upstream was asked in vain: let another pod try, where the claim to it is ours."""
        if (claim := self._polls.spend(sdk_key)) is not None:
            self._ask("release", sdk_key, lambda client: self._polls.give_back(client, sdk_key, claim))

    async def consult(self, sdk_key: str, suits: Callable[[Check], bool], claim_s: float | None) -> Check | Claim:
        """The check that another pod made, where it suits; else who polls now. `claim_s` None claims nothing.

        May take as long as the broker takes: give it a time limit.
        """
        client = self._client
        if client is None or not self.is_connected:
            return Claim.OURS
        try:
            answer = await self._polls.consult(client, sdk_key, suits, claim_s)
        except Exception as error:  # whatever is wrong with the broker is no reason not to poll
            self._telemetry.bus_refused(self._explained(error))
            return Claim.OURS
        if isinstance(answer, Check):
            self.release(sdk_key)
        return answer

    # The connection

    async def run(self) -> None:
        """Be connected, for ever."""
        failures = 0
        await asyncio.to_thread(importlib.import_module, "redis.asyncio")
        while True:
            begun = _clock()
            try:
                await self._live()
            except Exception as error:  # no trouble with the broker, of whatever kind, may reach further
                self._last_error = self._explained(error)
            for member in self._members.values():
                member.offer(None)
            failures = 1 if _clock() - begun > _STEADY_AFTER_S else failures + 1
            wait_s = backoff.reconnect_pause(failures, random.random())
            self._telemetry.bus_disconnected(self._last_error or "", wait_s)
            await asyncio.sleep(wait_s)

    async def _live(self) -> None:
        """One connection, until something is wrong with it."""
        async with self._opened() as client, client.pubsub() as pubsub:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                await self._subscribe(pubsub)
            self._client = client  # from now on, what members ask is done as soon as all is read
            for sdk_key, member in self._members.items():
                await self._do(client, functools.partial(self._shelf.begin, sdk_key=sdk_key))
                member.offer(None)
            self._since, self._last_error = self._now(), None
            self._telemetry.bus_connected(shown(self._url))
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._listen(pubsub))
                tasks.create_task(self._ping(client, pubsub))
                tasks.create_task(self._work(client))

    @asynccontextmanager
    async def _opened(self) -> "AsyncIterator[Redis]":
        from redis.asyncio import Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        # The client resolves names in threads that publishing needs, too; a name that hangs must not get that far.
        await addresses(self._resolver, urlsplit(self._url).hostname or "", ANSWER_WITHIN_S)
        client: Redis = Redis.from_url(
            self._url,
            protocol=2,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=ANSWER_WITHIN_S,
            socket_connect_timeout=ANSWER_WITHIN_S,
            max_connections=16 + len(self._members),
        )
        try:
            yield client
        except Exception as error:
            self._last_error = self._explained(error)  # before the farewell, which may take a moment
            raise
        finally:
            self._client = self._since = None
            self._errands.clear()
            self._idle.set()
            with suppress(Exception):
                async with asyncio.timeout(_FAREWELL_S):
                    await client.connection_pool.disconnect(inuse_connections=True)

    async def _subscribe(self, pubsub: "PubSub") -> None:
        channels = {name(sdk_key, "news").encode() for sdk_key in self._members}
        await pubsub.subscribe(*channels)
        while channels:
            message = await pubsub.get_message(timeout=None)
            if message and message["type"] == "subscribe":
                channels.discard(message["channel"])

    async def _listen(self, pubsub: "PubSub") -> None:
        keys = {name(sdk_key, "news").encode(): sdk_key for sdk_key in self._members}
        while True:
            message = await pubsub.get_message(timeout=None)
            if message and message["type"] == "pong":
                self._pong.set()
            if message and message["type"] == "message":
                self._hear(keys[message["channel"]], message["data"])

    def _hear(self, sdk_key: str, message: bytes) -> None:
        if self._shelf.is_news(sdk_key, message):
            self._ask("take", sdk_key, lambda client: self._shelf.take(client, sdk_key))

    async def _ping(self, client: "Redis", pubsub: "PubSub") -> None:
        """Both connections must answer: one that is half open gives no error by itself, ever."""
        while True:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                self._pong.clear()
                await pubsub.ping()
                await client.ping()
                await self._pong.wait()
            await asyncio.sleep(PING_S)

    async def _work(self, client: "Redis") -> None:
        while True:
            while self._errands:
                await self._do(client, self._errands.pop(next(iter(self._errands))))
            self._errand.clear()
            self._idle.set()
            await self._errand.wait()

    async def _do(self, client: "Redis", work: "Work") -> None:
        """Run an errand. What the broker refuses, say for want of memory or of a permission, ends no connection."""
        from redis.exceptions import ReadOnlyError, ResponseError

        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                await work(client)
        except ReadOnlyError:
            raise  # a failover took place: the next connection finds the primary
        except ResponseError as error:
            self._last_error = self._explained(error)
            self._telemetry.bus_refused(self._last_error)

    def _ask(self, kind: str, sdk_key: str, work: "Work") -> None:
        if self._client is not None:  # else the next connection begins with it
            self._errands[kind, sdk_key] = work
            self._idle.clear()
            self._errand.set()

    def _explained(self, error: BaseException) -> str:
        return explained(self._url, error, ANSWER_WITHIN_S)


def _clock() -> float:
    return asyncio.get_running_loop().time()
