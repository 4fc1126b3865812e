"""What every broker must do, tried on Redis and on the one in memory."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest

from datafile_sidecar.bus.broker import NOT_A_STRING, Broker, Connect
from datafile_sidecar.bus.redis_broker import RedisConnector
from tests import broker as servers
from tests.broker import needs_redis
from tests.sidecar.bus.memory_broker import MemoryServer

MESSAGE = ("news", b"message")


@dataclass
class Backend:
    """A server of one kind."""

    connect: Connect
    url: str
    write_list: Callable[[str], Awaitable[object]]


@pytest.fixture(params=["memory", pytest.param("redis", marks=needs_redis)])
async def backend(request: pytest.FixtureRequest) -> AsyncIterator[Backend]:
    if request.param == "memory":
        memory = MemoryServer()

        async def write_list(key: str) -> None:
            memory.write_list(key)

        yield Backend(memory.connect, "memory:", write_list)
        return
    async with servers.Broker() as server:
        yield Backend(RedisConnector().connect, server.url, lambda key: server.command("LPUSH", key, "x"))


@pytest.fixture
async def broker(backend: Backend) -> AsyncIterator[Broker]:
    async with backend.connect(backend.url) as broker:
        yield broker


async def put(broker: Broker, key: str, value: bytes) -> None:
    """Set a value, whatever was there."""
    await broker.set_and_delete(key, value, "other")


async def test_get_reads_no_more_than_asked(broker: Broker, backend: Backend) -> None:
    """A value without end costs no memory here; none, and one of another type, are no errors."""
    await put(broker, "a", b"0123456789")
    await backend.write_list("list")
    assert await broker.get("a", 4) == b"0123"
    assert await broker.get("a", 10) == await broker.get("a", 11) == b"0123456789"
    assert await broker.get("none", 4) == b""
    assert await broker.get("list", 4) == NOT_A_STRING


async def test_compare_and_set_replaces_only_what_was_seen(broker: Broker, backend: Backend) -> None:
    """Nothing where a value is, another one, or a longer one, is left alone; a value of another type can be replaced."""
    assert await broker.compare_and_set("a", b"", b"one\n1", max_bytes=4, publish=MESSAGE)
    assert not await broker.compare_and_set("a", b"", b"x", max_bytes=4, publish=MESSAGE)
    assert not await broker.compare_and_set("a", b"on", b"x", max_bytes=4, publish=MESSAGE)
    assert not await broker.compare_and_set("none", b"on", b"x", max_bytes=4, publish=MESSAGE)
    assert await broker.compare_and_set("a", b"one\n", b"two\n2", max_bytes=4, publish=MESSAGE)
    assert await broker.get("a", 100) == b"two\n2"
    await backend.write_list("list")
    assert await broker.compare_and_set("list", NOT_A_STRING, b"three", max_bytes=4, publish=MESSAGE)
    assert await broker.get("list", 100) == b"three"


async def test_one_of_many_writers_wins(broker: Broker) -> None:
    """Of writers that saw the same value, one replaces it, and the others learn that they did not."""
    writes = [broker.compare_and_set("a", b"", b"%d" % n, max_bytes=9, publish=MESSAGE) for n in range(8)]
    results = await asyncio.gather(*writes)
    assert results.count(True) == 1
    assert await broker.get("a", 9) == b"%d" % results.index(True)


async def test_a_lease_is_one_pods_until_it_ends(broker: Broker, backend: Backend) -> None:
    """It ends when it expires, is released by its holder, or a check is reported: then even if it is garbage."""
    assert await broker.acquire_lease("lease", b"mine", 60)
    assert not await broker.acquire_lease("lease", b"theirs", 60)
    await broker.release_lease("lease", b"theirs")
    await broker.release_lease("lease", b"min")
    assert await broker.get("lease", 9) == b"mine"
    await broker.release_lease("lease", b"mine")
    assert await broker.acquire_lease("lease", b"theirs", 0.05)
    await asyncio.sleep(0.1)
    assert await broker.acquire_lease("lease", b"mine", 60)
    await broker.set_and_delete("check", b"checked", "lease")
    assert await broker.get("check", 9) == b"checked"
    assert await broker.acquire_lease("lease", b"theirs", 60)
    await backend.write_list("garbage")
    assert not await broker.acquire_lease("garbage", b"mine", 60)
    await broker.release_lease("garbage", b"mine")
    await broker.set_and_delete("check", b"checked", "garbage")
    assert await broker.acquire_lease("garbage", b"mine", 60)


async def test_messages_come_in_order_from_what_was_written(backend: Backend) -> None:
    """Each write that took place is announced once on its channel, to every connection that has subscribed to it."""
    async with AsyncExitStack() as stack:
        writer, reader, stranger = [await stack.enter_async_context(backend.connect(backend.url)) for _ in range(3)]
        await reader.subscribe(["news", "more news"])
        await stranger.subscribe(["other"])
        for expected, value in ((b"", b"1"), (b"wrong", b"2"), (b"1", b"3")):
            await writer.compare_and_set("a", expected, value, max_bytes=9, publish=("news", value))
        await writer.compare_and_set("b", b"", b"4", max_bytes=9, publish=("more news", b"4"))
        await writer.compare_and_set("c", b"", b"5", max_bytes=9, publish=("other", b"5"))
        messages = [await asyncio.wait_for(reader.next_message(), 5) for _ in range(3)]
        assert messages == [("news", b"1"), ("news", b"3"), ("more news", b"4")]
        assert await asyncio.wait_for(stranger.next_message(), 5) == ("other", b"5")


async def test_a_ping_is_answered_while_messages_are_awaited(broker: Broker) -> None:
    """Time after time."""
    await broker.subscribe(["news"])
    listening = asyncio.create_task(broker.next_message())
    for _ in range(3):
        await asyncio.wait_for(broker.ping(), 5)
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)


async def test_trying_to_write_leaves_nothing_behind(backend: Backend, broker: Broker) -> None:
    """Several pods may try it at once."""
    async with backend.connect(backend.url) as other:
        await asyncio.gather(*(each.try_writing(("a", "b"), "news") for each in (broker, other) * 5))
    assert await broker.get("a", 9) == await broker.get("b", 9) == b""


async def test_a_time_limit_lets_answers_come(broker: Broker) -> None:
    """It does nothing to a broker that answers."""
    async with broker.time_limit():
        assert await broker.get("a", 9) == b""
