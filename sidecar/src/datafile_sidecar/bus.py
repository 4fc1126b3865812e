"""The bus: a Redis or Valkey by which sidecars share datafiles and polls. A cache, never the truth.

Lose it, wipe it, hang it or fill it with garbage, and nothing is lost but speed. Nobody waits for it: what comes from it is
handed to the members, one for each SDK key, and what they have to tell is done here, a moment later.

The order on every connection: subscribe, then read, then seed what is newer here, so that nothing falls in between. Any
trouble ends the connection, and the next one begins the same way.
"""

import asyncio
import functools
import importlib.util
import random
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote, urlsplit

import msgspec

from datafile_sidecar.core import backoff, bus_record
from datafile_sidecar.core.bus_record import BadRecordError, Check, Head, Record
from datafile_sidecar.core.times import rfc3339
from datafile_sidecar.resolver import DaemonResolver, addresses
from datafile_sidecar.telemetry import Telemetry

if TYPE_CHECKING:
    from redis.asyncio import Redis
    from redis.asyncio.client import PubSub

    Work = Callable[[Redis], Awaitable[object]]

PREFIX = "datafile-sidecar:1"
ANSWER_WITHIN_S = 5.0
PING_S = 2.0
_KEEP_S = 7 * 24 * 3600
_STEADY_AFTER_S = 10.0
_FAREWELL_S = 0.5
_TRIES = 5


class BusError(Exception):
    """The bus can't be used as it is set up; its text says what to mend."""


class Claim(Enum):
    """Who polls now."""

    OURS = "ours"
    ANOTHERS = "anothers"


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
        self._resolver = DaemonResolver()
        self._members: dict[str, Member] = {}
        self._client: Redis | None = None
        self._since: float | None = None
        self._last_error: str | None = None
        self._errands: dict[tuple[str, str], Work] = {}
        self._claims: dict[str, bytes] = {}
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
        self._ask("share", sdk_key, lambda client: self._put(client, sdk_key))

    def overwrite(self, sdk_key: str, bad: bytes) -> None:
        """What stands on the bus under exactly this head is wrong."""
        self._ask("overwrite", sdk_key, lambda client: self._put(client, sdk_key, bad))

    def tell(self, sdk_key: str, check: Check) -> None:
        """Upstream was asked."""
        self._claims.pop(sdk_key, None)
        self._ask("tell", sdk_key, lambda client: self._write_check(client, sdk_key, check))

    def release(self, sdk_key: str) -> None:
        """Upstream was asked in vain: let another pod try, where the claim to it is ours."""
        if (claim := self._claims.pop(sdk_key, None)) is not None:
            self._ask("release", sdk_key, lambda client: self._give_back(client, sdk_key, claim))

    async def consult(self, sdk_key: str, suits: Callable[[Check], bool], claim_s: float | None) -> Check | Claim:
        """The check that another pod made, where it suits; else who polls now. `claim_s` None claims nothing.

        May take as long as the broker takes: give it a time limit.
        """
        client = self._client
        if client is None or not self.is_connected:
            return Claim.OURS
        try:
            if check := await self._suitable(client, sdk_key, suits):
                return check
            if claim_s is None:
                return Claim.OURS
            if not await self._claim(client, sdk_key, claim_s):
                return Claim.ANOTHERS
            # Who had the claim until now may have told its check between our look and our claim.
            check = await self._suitable(client, sdk_key, suits)
        except Exception as error:  # whatever is wrong with the broker is no reason not to poll
            self._telemetry.bus_refused(self._explained(error))
            return Claim.OURS
        if check:
            self.release(sdk_key)
        return check or Claim.OURS

    async def _claim(self, client: "Redis", sdk_key: str, claim_s: float) -> bool:
        self._claims[sdk_key] = claim = secrets.token_hex(8).encode()  # before, for the answer may never come
        if await client.set(_name(sdk_key, "poll"), claim, nx=True, px=max(1, round(claim_s * 1000))):
            return True
        self._claims.pop(sdk_key, None)
        return False

    async def _suitable(self, client: "Redis", sdk_key: str, suits: Callable[[Check], bool]) -> Check | None:
        text = await _range(client, _name(sdk_key, "checked"), bus_record.MAX_HEAD_BYTES)
        check = bus_record.decode_check(text)
        return check if check and suits(check) else None

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
                await self._do(client, functools.partial(self._begin, sdk_key))
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
        channels = {_name(sdk_key, "news").encode() for sdk_key in self._members}
        await pubsub.subscribe(*channels)
        while channels:
            message = await pubsub.get_message(timeout=None)
            if message and message["type"] == "subscribe":
                channels.discard(message["channel"])

    async def _listen(self, pubsub: "PubSub") -> None:
        keys = {_name(sdk_key, "news").encode(): sdk_key for sdk_key in self._members}
        while True:
            message = await pubsub.get_message(timeout=None)
            if message and message["type"] == "pong":
                self._pong.set()
            if message and message["type"] == "message":
                self._hear(keys[message["channel"]], message["data"])

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

    # What goes by the bus

    async def _begin(self, sdk_key: str, client: "Redis") -> None:
        await self._read(client, sdk_key)
        await self._put(client, sdk_key)

    def _hear(self, sdk_key: str, text: bytes) -> None:
        try:
            head = bus_record.decode_head(text)
        except BadRecordError as error:
            self._telemetry.bus_record_rejected(sdk_key, "message", str(error))
            return
        if self._members[sdk_key].wants(head):
            self._ask("take", sdk_key, lambda client: self._take(client, sdk_key))

    async def _read(self, client: "Redis", sdk_key: str) -> None:
        """Take what stands there, where its head says that it is of use."""
        line = bus_record.head_line(await _range(client, _name(sdk_key, "datafile"), bus_record.MAX_HEAD_BYTES))
        if line == b"":
            return
        try:
            is_wanted = self._members[sdk_key].wants(bus_record.decode_head(line or b""))
        except BadRecordError as error:
            await self._reject(client, sdk_key, line, error)
            return
        if is_wanted:
            await self._take(client, sdk_key)

    async def _take(self, client: "Redis", sdk_key: str) -> None:
        """Take what stands there now: that of which a message told, or something newer."""
        member = self._members[sdk_key]
        value = await _range(client, _name(sdk_key, "datafile"), bus_record.MAX_VALUE_BYTES)
        try:
            record = await asyncio.to_thread(bus_record.decode, value, sdk_key)
        except BadRecordError as error:
            await self._reject(client, sdk_key, bus_record.head_line(value), error)
            return
        if member.wants(record.head):
            member.offer(record)

    async def _reject(self, client: "Redis", sdk_key: str, line: bytes | None, error: BadRecordError) -> None:
        self._telemetry.bus_record_rejected(sdk_key, "value", str(error))
        await self._put(client, sdk_key, line)

    async def _put(self, client: "Redis", sdk_key: str, bad: bytes | None = None) -> None:
        """Compare and set: nothing newer is overwritten, whoever writes meanwhile. `bad` names what must go, by its head."""
        from redis.exceptions import WatchError

        member, name = self._members[sdk_key], _name(sdk_key, "datafile")
        for _ in range(_TRIES):
            async with client.pipeline(transaction=True) as pipe:
                await pipe.watch(name)
                mine = member.held()
                if mine is None or not self._is_due(mine, await _range(pipe, name, bus_record.MAX_HEAD_BYTES), bad):
                    return
                if (body := await member.body(mine)) is None:
                    return
                mine = msgspec.structs.replace(mine, id=secrets.token_hex(8))
                pipe.multi()  # type: ignore[no-untyped-call]
                pipe.set(name, await asyncio.to_thread(bus_record.encode, mine, body), ex=_KEEP_S)
                pipe.publish(_name(sdk_key, "news"), mine.encode())
                try:
                    await pipe.execute()
                except WatchError:
                    continue
            self._telemetry.bus_record_shared(sdk_key, mine.revision)
            return

    def _is_due(self, mine: Head, value: bytes, bad: bytes | None) -> bool:
        line = bus_record.head_line(value)
        if not value or line is None or line == bad:
            return True
        try:
            return bus_record.is_newer(mine, bus_record.decode_head(line), self._now())
        except BadRecordError:
            return True

    async def _give_back(self, client: "Redis", sdk_key: str, claim: bytes) -> None:
        """Compare and delete: a claim that has expired may be another pod's by now."""
        from redis.exceptions import WatchError

        name = _name(sdk_key, "poll")
        async with client.pipeline(transaction=True) as pipe:
            await pipe.watch(name)
            if await _range(pipe, name, len(claim)) == claim:
                pipe.multi()  # type: ignore[no-untyped-call]
                pipe.delete(name)
                with suppress(WatchError):
                    await pipe.execute()

    async def _write_check(self, client: "Redis", sdk_key: str, check: Check) -> None:
        async with client.pipeline(transaction=True) as pipe:
            pipe.set(_name(sdk_key, "checked"), check.encode(), ex=_KEEP_S)
            pipe.delete(_name(sdk_key, "poll"))
            await pipe.execute()

    def _explained(self, error: BaseException) -> str:
        """What went wrong, for people. Brokers echo what they were sent, so the password is taken out of their words."""
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        words = str(error) or (
            f"no answer within {ANSWER_WITHIN_S:g} s" if isinstance(error, TimeoutError) else type(error).__name__
        )
        parts = urlsplit(self._url)
        for secret in (parts.password, unquote(parts.password or "")):
            words = words.replace(secret, "***") if secret else words
        return f"{shown(self._url)}: {words}"


def shown(url: str) -> str:
    """The broker's URL as anybody may see it: without user and password."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


async def _range(client: Any, name: str, last: int) -> bytes:
    """A value up to this byte, empty where there is none; something that is no value of ours where it is no string."""
    from redis.exceptions import ResponseError

    try:
        text: bytes = await client.getrange(name, 0, last)
    except ResponseError as error:
        if not str(error).startswith("WRONGTYPE"):
            raise
        return b"?"
    return text


def _name(sdk_key: str, what: str) -> str:
    return f"{PREFIX}:{sdk_key}:{what}"


def _clock() -> float:
    return asyncio.get_running_loop().time()
