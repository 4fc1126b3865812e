"""What a broker keeps of a fleet, tried on Redis and on the one in memory."""

from collections.abc import AsyncIterator

import pytest

from datafile_sidecar.bus.broker import RETENTION_S, Broker
from datafile_sidecar.bus.errors import CommandRefusedError
from datafile_sidecar.bus.fleet_store import SINCE_FIELD, Entry
from datafile_sidecar.bus.names import fleet_names
from datafile_sidecar.bus.redis_broker import RedisConnector
from tests import broker as servers
from tests.broker import needs_redis
from tests.sidecar.bus.memory_broker import MemoryServer

NAMES = fleet_names("KEY1")
SINCE = SINCE_FIELD.encode()


def entry(
    name: str, value: bytes = b"{}", since: bytes = b"1 a", removed: tuple[str, ...] = (), *, is_change: bool = True
) -> Entry:
    return Entry(NAMES, name, value, since, removed, is_change)


@pytest.fixture(params=["memory", pytest.param("redis", marks=needs_redis)])
async def broker(request: pytest.FixtureRequest) -> AsyncIterator[Broker]:
    if request.param == "memory":
        async with MemoryServer().connect("memory:") as broker:
            yield broker
        return
    async with servers.Broker() as server, RedisConnector().connect(server.url) as broker:
        yield broker


async def fields(broker: Broker) -> dict[bytes, bytes]:
    found, cursor = dict[bytes, bytes](), 0
    while True:
        cursor, some = await broker.fleet.step(NAMES, cursor)
        found |= some
        if not cursor:
            return found


async def test_pods_register_and_replace_their_predecessors(broker: Broker) -> None:
    """Since when is kept from the first, a successor takes the place of what it names, and every pod is read."""
    now, [first] = await broker.fleet.register([entry("a/1", since=b"1 a")])
    assert first.since == b"1 a"
    assert set(first.sample) == {b"a/1", SINCE}
    again, [second, third] = await broker.fleet.register(
        [entry("a/2", b"new", b"2 b", ("a/1", "a/0")), entry("b/1", is_change=False)]
    )
    assert again >= now
    assert (second.since, third.since) == (b"1 a", b"1 a")
    assert await fields(broker) == {SINCE: b"1 a", b"a/2": b"new", b"b/1": b"{}"}
    assert await broker.fleet.count(NAMES) == 3
    assert (await broker.fleet.moment(NAMES)).changes == 2


async def test_what_is_remembered_replaces_nothing(broker: Broker) -> None:
    """A pod that others name after the broker lost its memory keeps the record that it has written itself."""
    await broker.fleet.register([entry("a/1", b"own")])
    await broker.fleet.remember(NAMES, [b"a/1", b"b/1"], b"missing")
    assert await fields(broker) == {SINCE: b"1 a", b"a/1": b"own", b"b/1": b"missing"}
    await broker.fleet.unregister(NAMES, [b"b/1", "a/1"])
    assert await fields(broker) == {SINCE: b"1 a"}
    assert (await broker.fleet.moment(NAMES)).changes == 3
    await broker.fleet.clear(NAMES)
    assert (await fields(broker), (await broker.fleet.moment(NAMES)).changes) == ({}, 0)


async def test_many_pods_are_read_in_steps(broker: Broker) -> None:
    """A thousand pods arrive whole."""
    names = [f"pod-{number}/1" for number in range(1000)]
    await broker.fleet.register([entry(name, b"x" * 300) for name in names])
    assert (await fields(broker)).keys() == {SINCE, *(name.encode() for name in names)}


@needs_redis
async def test_listeners_and_what_expires() -> None:
    """Who listens to a key's messages is counted; and nothing stays on the broker for ever."""
    async with servers.Broker() as server:
        connect = RedisConnector().connect
        async with connect(server.url) as one, connect(server.url) as other:
            assert (await one.fleet.moment(NAMES)).listeners == 0
            await other.subscribe([NAMES.channel])
            assert (await one.fleet.moment(NAMES)).listeners == 1
            await one.fleet.register([entry("a/1")])
        for key in (NAMES.pods, NAMES.changes):
            assert 0 < await server.client().ttl(key) <= RETENTION_S


@needs_redis
async def test_what_is_refused_is_named() -> None:
    """A user without the permissions, or a value of another type in the place, leaves the connection as it was."""
    async with servers.Broker() as server:
        await server.command("ACL", "SETUSER", "old", "on", ">x", "~*", "&*", "+@all", "-hset")
        url = server.url.replace("://", "://old:x@")
        async with RedisConnector().connect(url) as broker:
            with pytest.raises(CommandRefusedError, match="hset"):
                await broker.fleet.register([entry("a/1")])
            await server.command("SET", fleet_names("KEY2").pods, "x")
            with pytest.raises(CommandRefusedError, match="WRONGTYPE"):
                await broker.fleet.step(fleet_names("KEY2"), 0)
            assert await broker.fleet.count(NAMES) == 1
