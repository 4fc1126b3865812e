"""The bus against a real broker: who may write what, who polls, and what may never be seen of it."""

import asyncio
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from datafile_sidecar.bus import Bus, Claim, shown
from datafile_sidecar.config import settings
from datafile_sidecar.core import bus_record, datafile
from datafile_sidecar.core.bus_record import Check, Head, Record
from datafile_sidecar.observe import logs
from datafile_sidecar.observe.telemetry import Telemetry
from tests.broker import Broker, Line, free_port, needs_redis
from tests.datafiles import minimal, realistic

KEY = "KEY1"
NAME = f"datafile-sidecar:1:{KEY}"


class Holder:
    """A member that holds a datafile and takes what is newer, as bare as can be."""

    def __init__(self, revision: int | None = None, body: bytes | None = None) -> None:
        self.content = body or (None if revision is None else minimal(revision))
        self.fetched = time.time()
        self.seen: list[int | None] = []

    def held(self) -> Head | None:
        if self.content is None:
            return None
        found = datafile.parse(self.content, KEY)
        return Head(generation=0, revision=found.revision, sha256=found.sha256, fetched=self.fetched)

    async def body(self, head: Head) -> bytes | None:
        return self.content

    def wants(self, head: Head) -> bool:
        mine = self.held()
        return mine is None or bus_record.is_newer(head, mine, time.time())

    def offer(self, record: Record | None) -> None:
        self.seen.append(record.found.revision if record else None)
        if record is not None:
            self.content, self.fetched = record.found.body, record.head.fetched


@pytest.fixture
async def broker() -> AsyncIterator[Broker]:
    async with Broker() as broker:
        yield broker


@asynccontextmanager
async def running(url: str, holder: Holder, *, connected: bool = True) -> AsyncIterator[Bus]:
    """A bus with this one member, connected."""
    with open("/dev/null", "w") as log:
        bus = Bus(url, Telemetry(logs.configure("info", "json", log), time.monotonic))
        bus.join(KEY, holder)
        task = asyncio.create_task(bus.run())
        try:
            if connected:
                await until(lambda: bus.is_connected)
            yield bus
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], object], within_s: float = 10) -> None:
    """Wait until that is so."""
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.005)


@needs_redis
async def test_a_big_datafile_reaches_whoever_is_or_will_be_connected(broker: Broker) -> None:
    """3.5 MiB, by a message to those who listen, by the value to those who come later; who has nothing is told nothing else."""
    body = realistic(3584, 2)
    sender, listener, late = Holder(1), Holder(), Holder()
    async with running(broker.url, sender) as bus, running(broker.url, listener):
        assert listener.seen == [1, None]
        sender.content, sender.fetched = body, time.time()
        bus.share(KEY)
        await until(lambda: listener.seen == [1, None, 2])
        await asyncio.wait_for(bus.settle(), 1)
        assert sender.seen == [None]
    async with running(broker.url, late):
        assert late.content == body


@needs_redis
async def test_many_writers_at_once_leave_the_newest(broker: Broker) -> None:
    """Compare and set: of twelve pods that write at the same moment, in any order, the newest wins, and all end with it."""
    holders = [Holder(revision) for revision in range(1, 13)]
    random.Random(1).shuffle(holders)
    async with asyncio.TaskGroup() as tasks:
        done = asyncio.Event()

        async def live(holder: Holder) -> None:
            async with running(broker.url, holder) as bus:
                for _ in range(5):
                    bus.share(KEY)
                    await bus.settle()
                await done.wait()

        for holder in holders:
            tasks.create_task(live(holder))
        await until(lambda: all(holder.content == minimal(12) for holder in holders))
        done.set()
    assert bus_record.decode(await broker.value(f"{NAME}:datafile"), KEY).head.revision == 12


@needs_redis
async def test_only_the_bad_value_that_was_seen_is_overwritten(broker: Broker) -> None:
    """Who comes too late with the correction harms nobody's good value."""
    async with running(broker.url, Holder(1)) as bus:
        bad = bus_record.encode(Head(generation=0, revision=50, sha256="a" * 64, fetched=1.0, id="1" * 16), b"x")
        good = bus_record.encode(Head(generation=0, revision=50, sha256="a" * 64, fetched=1.0, id="2" * 16), b"x")
        await broker.client().set(f"{NAME}:datafile", good)
        bus.overwrite(KEY, bad.partition(b"\n")[0])
        await bus.settle()
        assert await broker.value(f"{NAME}:datafile") == good
        await broker.client().set(f"{NAME}:datafile", bad)
        bus.overwrite(KEY, bad.partition(b"\n")[0])
        await bus.settle()
        assert bus_record.decode(await broker.value(f"{NAME}:datafile"), KEY).head.revision == 1


@needs_redis
async def test_one_of_many_polls(broker: Broker) -> None:
    """A claim is one pod's, until it has told what it found, or gave up, or its time is over."""
    async with running(broker.url, Holder(1)) as bus, running(broker.url, Holder(1)) as other:
        assert await bus.consult(KEY, lambda _: True, 0.2) is Claim.OURS
        assert await other.consult(KEY, lambda _: True, 0.2) is Claim.ANOTHERS
        assert await other.consult(KEY, lambda _: True, None) is Claim.OURS
        await asyncio.sleep(0.25)
        assert await other.consult(KEY, lambda _: True, 60) is Claim.OURS
        other.release(KEY)
        await other.settle()
        assert await bus.consult(KEY, lambda _: True, 60) is Claim.OURS
        check = Check(at=5.0, sha256="a" * 64)
        bus.tell(KEY, check)
        await bus.settle()
        assert await other.consult(KEY, lambda seen: seen == check, 60) == check
        assert await other.consult(KEY, lambda _: False, 60) is Claim.OURS


@needs_redis
async def test_who_gives_up_late_ends_no_claim_but_its_own(broker: Broker) -> None:
    """A poll that fails after its claim has expired does not let a third pod poll beside the second."""
    async with running(broker.url, Holder(1)) as late, running(broker.url, Holder(1)) as other:
        assert await late.consult(KEY, lambda _: True, 0.05) is Claim.OURS
        await asyncio.sleep(0.1)
        assert await other.consult(KEY, lambda _: True, 60) is Claim.OURS
        late.release(KEY)
        await late.settle()
        assert await late.consult(KEY, lambda _: True, 60) is Claim.ANOTHERS
        other.release(KEY)
        await other.settle()
        assert await late.consult(KEY, lambda _: True, 60) is Claim.OURS


@needs_redis
async def test_who_has_no_claim_gives_none_back(broker: Broker) -> None:
    """A webhook's fetch that fails, made without a claim, or after the claim was given back, leaves another pod's alone."""
    async with running(broker.url, Holder(1)) as bus, running(broker.url, Holder(1)) as other:
        assert await bus.consult(KEY, lambda _: True, 60) is Claim.OURS
        bus.tell(KEY, Check(at=5.0, sha256="a" * 64))
        await bus.settle()
        assert await other.consult(KEY, lambda _: False, 60) is Claim.OURS
        bus.release(KEY)
        await bus.settle()
        assert await bus.consult(KEY, lambda _: False, 60) is Claim.ANOTHERS


@needs_redis
async def test_a_claim_without_an_end_is_ended_by_the_next_check(broker: Broker) -> None:
    """Somebody wrote into our keys what never goes away: the pod that polls in spite of it mends it."""
    client = broker.client()
    await client.lpush(f"{NAME}:poll", "x")
    await client.lpush(f"{NAME}:checked", "x")
    async with running(broker.url, Holder(1)) as bus:
        assert await bus.consult(KEY, lambda _: True, 1) is Claim.ANOTHERS
        bus.tell(KEY, Check(at=5.0, sha256="a" * 64))
        await bus.settle()
        assert isinstance(await bus.consult(KEY, lambda _: True, 1), Check)


@needs_redis
async def test_a_broker_without_memory_takes_nothing_and_keeps_its_listeners(broker: Broker) -> None:
    """What it refuses is said, and no reason to leave: reading goes on."""
    client = broker.client()
    async with running(broker.url, holder := Holder(1)) as bus:
        await client.config_set("maxmemory", "1")
        holder.content = minimal(2)
        bus.share(KEY)
        await until(lambda: bus.view()["last_error"])
        assert "maxmemory" in bus.view()["last_error"]
        assert bus.is_connected
        await client.config_set("maxmemory", "0")
        bus.share(KEY)
        await bus.settle()
        assert bus_record.decode(await broker.value(f"{NAME}:datafile"), KEY).head.revision == 2


@needs_redis
async def test_a_half_open_line_is_noticed_within_seconds(broker: Broker) -> None:
    """A ping every two seconds must be answered within five, on the connection for messages and on that for commands."""

    async def suffer(number: int) -> None:
        async with Line(broker.port) as line, running(line.url, holder := Holder()) as bus:
            line.cut_one(number)
            begun = time.monotonic()
            await until(lambda: not bus.is_connected)
            assert time.monotonic() - begun < 10
            assert bus.view()["last_error"]
            await until(lambda: bus.is_connected)
            async with running(broker.url, Holder(7)):
                await until(lambda: holder.content == minimal(7))

    await asyncio.gather(suffer(0), suffer(1))


@needs_redis
async def test_a_broker_that_is_loading_is_waited_for(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that answers -LOADING at first is used when it is done; and no proxy for upstream has a part in it."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    is_loading = True

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if is_loading:
            while heard := await reader.read(4096):
                writer.write(b"-LOADING Redis is loading the dataset in memory\r\n" * heard.count(b"*"))
            writer.transport.abort()
            return
        far, other = await asyncio.open_connection("127.0.0.1", broker.port)
        await asyncio.gather(pump(reader, other), pump(far, writer))

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
        writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, running(broker.url, Holder(2)), running(url, holder := Holder(1), connected=False) as bus:
        await until(lambda: "loading" in str(bus.view()["last_error"]))
        is_loading = False
        await until(lambda: bus.is_connected)
        assert holder.content == minimal(2)


async def test_what_a_broker_echoes_is_shown_without_the_password() -> None:
    """A server that is no Redis quotes what it was sent; the password is taken out of its words, as written and as meant."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard = await reader.read(4096)
        writer.write(b"-ERR unknown command, with args beginning with: " + heard.replace(b"\r\n", b" ") + b"\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        url = f"rediss://someone:hunter2%21@127.0.0.1:{port}/1".replace("rediss", "redis")
        async with running(url, holder := Holder(), connected=False) as bus:
            await until(lambda: bus.view()["last_error"])
            view = str(bus.view()) + repr(bus)
            assert "unknown command" in view
            assert "hunter2" not in view
            await until(lambda: holder.seen)  # after the farewell to the broker, which comes after the error
            assert holder.seen[0] is None


async def test_a_broker_that_is_not_there_is_said_to_be_so() -> None:
    """Words for people: whom we tried to reach, and what happened."""
    port = free_port()
    async with running(f"redis://127.0.0.1:{port}", Holder(), connected=False) as bus:
        await until(lambda: bus.view()["last_error"])
        assert f"redis://127.0.0.1:{port}" in bus.view()["last_error"]
        assert bus.view()["state"] == "disconnected"
        assert await bus.consult(KEY, lambda _: True, 1) is Claim.OURS


def test_the_address_is_shown_without_user_and_password() -> None:
    """An IPv6 address and a database stay readable."""
    assert shown("rediss://user:p@ss@[::1]:6380/3") == "rediss://[::1]:6380/3"


@pytest.mark.parametrize(
    "url",
    [
        "redis://broker",
        "rediss://broker:6380/3",
        " redis://:hunter2@broker:6379/ ",
        "redis://user:hunter2%2F%3F@[::1]:6379/0",
    ],
)
def test_a_good_url_is_taken_and_not_shown(url: str) -> None:
    """User, password, database and TLS are all said in the URL; the settings can be printed all the same."""
    told = settings.load({"DATAFILE_SDK_KEYS": KEY, "DATAFILE_BUS_URL": url})
    assert told.bus_url == url.strip()
    assert "hunter2" not in repr(told)


@pytest.mark.parametrize(
    "url",
    [
        "broker:6379",
        "http://hunter2@broker",
        "redis://",
        "redis://:hunter2@broker:0",
        "redis://:hunter2@broker:x",
        "redis://:hunter2/@broker:6379",
        "redis://:hunter2#@broker",
        "redis://:hunter2@broker/0?ssl_cert_reqs=none",
        "redis://:hunter2@broker/zero",
        "redis://:hun ter2@broker",
        "unix:///run/redis.sock",
    ],
)
def test_a_bad_url_is_refused_without_being_quoted(url: str) -> None:
    """The mistake is named, the password is not; and nobody turns off the check of a certificate here."""
    with pytest.raises(settings.SettingsError) as caught:
        settings.load({"DATAFILE_SDK_KEYS": KEY, "DATAFILE_BUS_URL": url})
    assert "DATAFILE_BUS_URL" in str(caught.value)
    assert "hun" not in str(caught.value)


def test_without_a_bus_the_client_for_redis_is_not_even_imported() -> None:
    """Who has no bus neither needs the package nor pays for it."""
    code = "import sys, datafile_sidecar.cli.daemon, datafile_sidecar.cli.main; sys.exit('redis' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
