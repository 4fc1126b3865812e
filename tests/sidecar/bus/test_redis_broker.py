"""What is special about Redis: its errors become those of the bus, and what is written expires."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

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
    async with RedisConnector().connect(server.url) as broker:
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
    async with RedisConnector().connect(f"redis://127.0.0.1:{free_port()}") as broker:
        with pytest.raises(BrokerError, match=r"127\.0\.0\.1"):
            await broker.subscribe(["news"])


async def test_values_expire(server: Broker, broker: RedisBroker) -> None:
    """A fleet that is gone leaves nothing behind for ever."""
    await broker.compare_and_set("a", b"", b"1", max_bytes=9, publish=("news", b"1"))
    await broker.set_and_delete("b", b"1", "c")
    assert [await server.client().ttl(key) for key in ("a", "b")] == [pytest.approx(RETENTION_S, abs=5)] * 2


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[str]:
    """A server that gives this answer to everything, by its URL."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while request := await reader.read(65536):
            writer.write(answer * request.count(b"*"))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize(
    ("answer", "text", "is_refused"),
    [
        (b"-MOVED 10648 127.0.0.1:18912", "a node of a Redis Cluster: MOVED 10648 127.0.0.1:18912", False),
        (b"-ASK 10648 127.0.0.1:18912", "Redis Cluster.*ASK 10648", False),
        (b"-CLUSTERDOWN Hash slot not served", "Redis Cluster.*CLUSTERDOWN Hash slot", False),
        (b"-CROSSSLOT Keys in request", "Redis Cluster.*CROSSSLOT", False),
        (b"-READONLY You can't write", "takes no writes: READONLY You can't write", False),
        (b"-MASTERDOWN Link with MASTER is down", "^MASTERDOWN Link", True),
        (b"-OOM command not allowed", "takes no writes: OOM command", True),
        (b"-MISCONF Errors writing to disk", "takes no writes: MISCONF Errors", True),
        (b"-NOREPLICAS Not enough", "takes no writes: NOREPLICAS Not", True),
        (b"-NOPERM this user has no permissions to run the 'set' command", "^NOPERM this user .*'set'", True),
        (b"-BUSY Redis is busy running a script", "^BUSY Redis", True),
        (b"-DENIED Redis is running in protected mode", "^DENIED Redis", True),
        (b"-LOADING Redis is loading the dataset", "^LOADING Redis is loading", False),
        (b"-NOAUTH Authentication required.", "^NOAUTH Authentication required", False),
        (b"-WRONGPASS invalid username-password pair", "^WRONGPASS invalid", False),
        (b"-ERR max number of clients reached", "max number of clients reached", False),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n<html>", "this is not Redis: it answers 'HTTP/1.1 400 Bad Request'", False),
    ],
)
async def test_what_the_broker_says_is_shown_with_its_code(answer: bytes, text: str, is_refused: bool) -> None:
    """Of the single commands and of a transaction: the code is there, and what it means where that is not obvious."""
    async with answering(answer + b"\r\n") as url, RedisConnector().connect(url) as broker:
        for command in (broker.get("a", 9), broker.acquire_lease("a", b"1", 1), broker.set_and_delete("a", b"1", "b")):
            with pytest.raises(BrokerError, match=text) as caught:
                await command
            assert isinstance(caught.value, CommandRefusedError) is is_refused
            assert "pipeline" not in str(caught.value)


@pytest.mark.parametrize("missing", ["watch", "getrange", "set", "del", "publish", "multi", "exec"])
async def test_trying_needs_every_right(server: Broker, missing: str) -> None:
    """Where a user lacks one of the rights that sharing needs, the refusal names it."""
    await server.command("ACL", "SETUSER", "some", "on", ">hunter2", "~*", "&*", "+@all", f"-{missing}")
    async with RedisConnector().connect(server.url.replace("//", "//some:hunter2@")) as some:
        with pytest.raises(CommandRefusedError, match=f"NOPERM .*{missing}|without MULTI"):
            await some.try_writing(("a", "b"), "c")


async def test_commands_share_few_connections(server: Broker, broker: RedisBroker) -> None:
    """However many commands run at once, nine connections are the most; they wait for each other."""
    await asyncio.gather(*(broker.acquire_lease(f"lease-{number}", b"1", 60) for number in range(300)))
    assert len(await server.client().client_list()) - 1 <= 9
