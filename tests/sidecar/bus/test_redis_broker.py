"""What is special about Redis: its errors become those of the bus, and what is written expires."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from datafile_sidecar.bus.broker import RETENTION_S
from datafile_sidecar.bus.errors import BrokerError, CommandRefusedError
from datafile_sidecar.bus.redis_broker import RedisBroker, RedisConnector
from tests.broker import Broker, free_port, needs_redis

pytestmark = needs_redis


@pytest.fixture
async def server() -> AsyncIterator[Broker]:
    async with Broker() as server:
        yield server


@pytest.fixture
async def broker(server: Broker) -> AsyncIterator[RedisBroker]:
    async with RedisConnector().connect(server.url, 1) as broker:
        yield broker


async def test_a_refused_command_leaves_the_connection_usable(server: Broker, broker: RedisBroker) -> None:
    """Lack of memory is an error of one command."""
    await server.command("CONFIG", "SET", "maxmemory", "1")
    with pytest.raises(CommandRefusedError, match="maxmemory"):
        await broker.set_and_delete("a", b"1", "b")
    assert await broker.get("a", 9) == b""


async def test_a_replica_that_refuses_writes_is_of_no_use(server: Broker, broker: RedisBroker) -> None:
    """After a failover another server is the primary, so that the connection must be made again."""
    await server.command("REPLICAOF", "127.0.0.1", "1")
    with pytest.raises(BrokerError, match="read only") as caught:
        await broker.acquire_lease("a", b"1", 1)
    assert not isinstance(caught.value, CommandRefusedError)


async def test_a_lost_connection_is_an_error_of_the_bus(server: Broker, broker: RedisBroker) -> None:
    """Whoever waits for a message learns of it, and so does the next command."""
    await broker.subscribe(["news"])
    listening = asyncio.create_task(broker.next_message())
    await server.kill()
    with pytest.raises(BrokerError):
        await asyncio.wait_for(listening, 5)
    with pytest.raises(BrokerError):
        await broker.get("a", 9)


async def test_a_server_that_is_not_there_is_an_error_of_the_bus() -> None:
    """It is noticed with the first command."""
    async with RedisConnector().connect(f"redis://127.0.0.1:{free_port()}", 1) as broker:
        with pytest.raises(BrokerError, match=r"127\.0\.0\.1"):
            await broker.subscribe(["news"])


async def test_values_expire(server: Broker, broker: RedisBroker) -> None:
    """A fleet that is gone leaves nothing behind for ever."""
    await broker.compare_and_set("a", b"", b"1", max_bytes=9, publish=("news", b"1"))
    await broker.set_and_delete("b", b"1", "c")
    assert [await server.client().ttl(key) for key in ("a", "b")] == [pytest.approx(RETENTION_S, abs=5)] * 2
