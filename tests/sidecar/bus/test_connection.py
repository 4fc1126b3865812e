"""The bus on a real Redis and on a broker in memory: which writes win, which pod polls, and what it must never show."""

import asyncio
import importlib.util
import json
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress

import pytest

from datafile_sidecar.bus import ANSWER_WITHIN_S, Bus, BusError, Lease, names, shown, traffic, transfer
from datafile_sidecar.bus.connection import PING_S
from datafile_sidecar.config import settings
from datafile_sidecar.core import bus_record
from datafile_sidecar.core.bus_record import Check, Head
from datafile_sidecar.network.turns import Turns, Urgency
from datafile_sidecar.observe import logs
from datafile_sidecar.observe.telemetry import Telemetry
from tests import bus_values
from tests.broker import Broker, Line, free_port, needs_redis
from tests.datafiles import minimal, realistic
from tests.sidecar.bus.memory_broker import MemoryServer
from tests.sidecar.bus.pods import KEY, Holder, running, until
from tests.sidecar.sync.virtual_time import VirtualTimeLoop

NAME = f"datafile-sidecar:1:{KEY}"
VALUE, CHANGES = names.value_key(KEY), names.changes_channel(KEY)


@pytest.fixture
async def broker() -> AsyncIterator[Broker]:
    async with Broker() as broker:
        yield broker


@needs_redis
async def test_waiting_for_our_own_processor_is_no_silence_of_the_broker(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While other keys are validated for longer than a broker may be silent, the connection stays; then it goes on."""
    monkeypatch.setattr(traffic, "ANSWER_WITHIN_S", 0.5)
    validations, sender, receiver = Turns(announced=1, hinted=1, routine=1), Holder(2), Holder()
    async with running(broker.url, sender) as bus:
        await asyncio.wait_for(bus.settle(), 5)
        others = await validations.take(Urgency.ROUTINE)
        async with running(broker.url, receiver, validations=validations, connected=False) as waiting:
            await asyncio.sleep(1.5)
            assert waiting.view()["last_error"] is None
            validations.end(others)
            await until(lambda: receiver.seen)
            assert (waiting.view()["last_error"], receiver.seen[0]) == (None, 2)


@needs_redis
async def test_a_big_datafile_reaches_members_that_are_or_will_be_connected(broker: Broker) -> None:
    """3.5 MiB: a message announces it to those that listen, and those that connect later read the value."""
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
    assert bus_values.read(await broker.value(VALUE)).head.revision == 12


@needs_redis
async def test_only_the_bad_value_that_was_seen_is_overwritten(broker: Broker) -> None:
    """A correction that comes too late leaves a good value alone."""
    async with running(broker.url, Holder(1)) as bus:
        bad = bus_record.encode(Head(generation=0, revision=50, sha256="a" * 64, fetched=1.0, id="1" * 16), b"x")
        good = bus_record.encode(Head(generation=0, revision=50, sha256="a" * 64, fetched=1.0, id="2" * 16), b"x")
        await broker.client().set(VALUE, good)
        bus.overwrite(KEY, bad.partition(b"\n")[0])
        await bus.settle()
        assert await broker.value(VALUE) == good
        await broker.client().set(VALUE, bad)
        bus.overwrite(KEY, bad.partition(b"\n")[0])
        await bus.settle()
        assert bus_values.read(await broker.value(VALUE)).head.revision == 1


@needs_redis
async def test_one_of_many_polls(broker: Broker) -> None:
    """A lease is one pod's until it reports a check, releases the lease, or the lease expires."""
    async with running(broker.url, Holder(1)) as bus, running(broker.url, Holder(1)) as other:
        assert await bus.poll_lease(KEY, lambda _: True, 0.2) is Lease.OURS
        assert await other.poll_lease(KEY, lambda _: True, 0.2) is Lease.OTHERS
        assert await other.poll_lease(KEY, lambda _: True, None) is Lease.OURS
        await asyncio.sleep(0.25)
        assert await other.poll_lease(KEY, lambda _: True, 60) is Lease.OURS
        other.release_lease(KEY)
        await other.settle()
        assert await bus.poll_lease(KEY, lambda _: True, 60) is Lease.OURS
        check = Check(at=5.0, sha256="a" * 64)
        bus.report_check(KEY, check)
        await bus.settle()
        assert await other.poll_lease(KEY, lambda seen: seen == check, 60) == check
        assert await other.poll_lease(KEY, lambda _: False, 60) is Lease.OURS


@needs_redis
async def test_one_of_many_chases(broker: Broker) -> None:
    """The lease to chase is one pod's until it expires, has nothing to do with that to poll, and is every pod's without a bus."""
    async with running(broker.url, Holder(1)) as bus, running(broker.url, Holder(1)) as other:
        assert await bus.poll_lease(KEY, lambda _: True, 60) is Lease.OURS
        assert await bus.chase_lease(KEY, 0.2)
        assert not await other.chase_lease(KEY, 0.2)
        await asyncio.sleep(0.25)
        assert await other.chase_lease(KEY, 60)
        await broker.kill()
        await until(lambda: not bus.is_connected)
        assert await bus.chase_lease(KEY, 60)


@needs_redis
async def test_a_throttled_pod_keeps_the_lease_until_it_expires(broker: Broker) -> None:
    """No other pod runs into the same answer at once; then the next one may try."""
    async with running(broker.url, Holder(1)) as bus, running(broker.url, Holder(1)) as other:
        assert await bus.poll_lease(KEY, lambda _: True, 0.3) is Lease.OURS
        bus.release_lease(KEY, at_once=False)
        await bus.settle()
        assert await other.poll_lease(KEY, lambda _: True, 0.3) is Lease.OTHERS
        await asyncio.sleep(0.35)
        assert await other.poll_lease(KEY, lambda _: True, 0.3) is Lease.OURS


@needs_redis
async def test_a_late_release_ends_no_lease_of_another_pod(broker: Broker) -> None:
    """A poll that fails after its lease has expired does not let a third pod poll beside the second."""
    async with running(broker.url, Holder(1)) as late, running(broker.url, Holder(1)) as other:
        assert await late.poll_lease(KEY, lambda _: True, 0.05) is Lease.OURS
        await asyncio.sleep(0.1)
        assert await other.poll_lease(KEY, lambda _: True, 60) is Lease.OURS
        late.release_lease(KEY)
        await late.settle()
        assert await late.poll_lease(KEY, lambda _: True, 60) is Lease.OTHERS
        other.release_lease(KEY)
        await other.settle()
        assert await late.poll_lease(KEY, lambda _: True, 60) is Lease.OURS


@needs_redis
async def test_a_pod_without_a_lease_releases_none(broker: Broker) -> None:
    """A fetch that fails without a lease, or after the lease was released, leaves the lease of another pod alone."""
    async with running(broker.url, Holder(1)) as bus, running(broker.url, Holder(1)) as other:
        assert await bus.poll_lease(KEY, lambda _: True, 60) is Lease.OURS
        bus.report_check(KEY, Check(at=5.0, sha256="a" * 64))
        await bus.settle()
        assert await other.poll_lease(KEY, lambda _: False, 60) is Lease.OURS
        bus.release_lease(KEY)
        await bus.settle()
        assert await bus.poll_lease(KEY, lambda _: False, 60) is Lease.OTHERS


@needs_redis
async def test_a_lease_without_expiry_is_ended_by_the_next_check(broker: Broker) -> None:
    """Garbage in our keys that never expires is removed by the pod that polls in spite of it."""
    client = broker.client()
    await client.lpush(f"{NAME}:poll", "x")
    await client.lpush(f"{NAME}:checked", "x")
    async with running(broker.url, Holder(1)) as bus:
        assert await bus.poll_lease(KEY, lambda _: True, 1) is Lease.OTHERS
        bus.report_check(KEY, Check(at=5.0, sha256="a" * 64))
        await bus.settle()
        assert isinstance(await bus.poll_lease(KEY, lambda _: True, 1), Check)


@needs_redis
async def test_a_broker_without_memory_is_not_called_connected(broker: Broker) -> None:
    """The refusal is reported, and reading goes on. When there is memory again, what was refused is written."""
    client = broker.client()
    async with running(broker.url, holder := Holder(1)) as bus:
        await client.config_set("maxmemory", "1")
        holder.content = minimal(2)
        bus.share(KEY)
        await until(lambda: bus.view()["last_error"])
        assert "the broker takes no writes: OOM" in bus.view()["last_error"]
        await until(lambda: not bus.is_connected)
        assert (bus.view()["state"], bus.view()["since"]) == ("disconnected", None)
        assert await bus.poll_lease(KEY, lambda _: True, 60) is Lease.OURS
        connections = await client.client_list()
        await client.config_set("maxmemory", "0")
        await until(lambda: bus.is_connected)
        assert bus.view()["last_error"] is None
        assert [one["id"] for one in await client.client_list()] == [one["id"] for one in connections]
        await bus.settle()
        assert bus_values.read(await broker.value(VALUE)).head.revision == 2


@needs_redis
async def test_a_user_who_may_not_write_is_not_called_connected(broker: Broker) -> None:
    """From the first moment on, though all that others write arrives there. A right that is given later is noticed."""
    await broker.command("ACL", "SETUSER", "reader", "on", ">hunter2", "~*", "&*", "+@all", "-set")
    url = broker.url.replace("//", "//reader:hunter2@")
    async with running(url, holder := Holder(1), connected=False) as bus, running(broker.url, Holder(2)):
        await until(lambda: holder.content == minimal(2))
        await until(lambda: bus.view()["last_error"])
        assert bus.view()["state"] == "disconnected"
        assert "NOPERM" in bus.view()["last_error"]
        await broker.command("ACL", "SETUSER", "reader", "+set")
        await until(lambda: bus.is_connected)


@needs_redis
async def test_a_value_that_was_evicted_is_not_called_bad(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message comes, and the value is gone: what this pod has is put back, and upstream is asked for the rest."""
    events: list[str] = []
    for name in ("bus_record_missing", "bus_record_rejected"):
        monkeypatch.setattr(Telemetry, name, lambda *_, name=name: events.append(name))
    client = broker.client()
    async with running(broker.url, holder := Holder(1)):
        await client.delete(VALUE)
        await client.publish(CHANGES, bus_values.message(bus_values.head(minimal(2)), minimal(2)))
        await until(lambda: holder.missed)
        assert (events, holder.missed) == (["bus_record_missing"], 1)
        await until_value(broker, 1)


async def until_value(broker: Broker, revision: int) -> None:
    """Wait until there is a good record of this revision on the broker."""
    async with asyncio.timeout(10):
        while True:
            with suppress(AssertionError):
                if bus_values.read(await broker.value(VALUE)).head.revision == revision:
                    return
            await asyncio.sleep(0.005)


@needs_redis
async def test_the_same_datafile_is_not_written_again(broker: Broker) -> None:
    """A pod that has fetched for itself what is on the bus already leaves it there: other pods would read it once more."""
    body = minimal(2)
    async with running(broker.url, Holder(body=body)), running(broker.url, holder := Holder(body=body)) as bus:
        await until_value(broker, 2)
        before = await broker.value(VALUE)
        holder.fetched = time.time()
        bus.share(KEY)
        await bus.settle()
        assert await broker.value(VALUE) == before


@needs_redis
@pytest.mark.parametrize("direction", ["to us", "from us"])
async def test_a_slow_broker_is_not_a_lost_one(broker: Broker, direction: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A datafile that takes longer than the limit for an answer arrives all the same, at the first attempt."""
    monkeypatch.setattr(traffic, "ANSWER_WITHIN_S", 1.0)
    monkeypatch.setattr(traffic, "_LOOK_EVERY_S", 0.1)
    body = incompressible(2)
    connections: list[object] = []
    monkeypatch.setattr(Telemetry, "bus_connected", lambda _, address: connections.append(address))
    async with Line(broker.port) as line:
        slow, fast = Holder(1), Holder(1)
        async with running(line.url, slow) as narrow, running(broker.url, fast) as wide:
            sender, receiver, bus = (fast, slow, wide) if direction == "to us" else (slow, fast, narrow)
            line.narrow(250_000)
            begun = time.monotonic()
            sender.content, sender.fetched = body, time.time()
            bus.share(KEY)
            await until(lambda: receiver.content == body)
            assert time.monotonic() - begun > 1.5
            assert len(connections) == 2
            assert line.bytes_to_us < 1.5 * 700_000


@needs_redis
async def test_a_datafile_that_takes_too_long_is_given_up(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Upstream is asked for it instead, and the connection for messages stays."""
    monkeypatch.setattr(transfer, "_TRANSFER_WITHIN_S", 0.3)
    async with Line(broker.port) as line, running(line.url, holder := Holder(1)) as bus:
        line.narrow(100_000)
        since = bus.view()["since"]
        async with running(broker.url, Holder(body=incompressible(2))):
            await until(lambda: holder.missed)
            assert (holder.missed, bus.view()["since"]) == (1, since)
            line.narrow(None)
            async with running(broker.url, Holder(3)):
                await until(lambda: holder.content == minimal(3))
        assert bus.view()["since"] == since


def incompressible(revision: int) -> bytes:
    """A datafile that takes about 600 KiB on the bus."""
    parsed = json.loads(minimal(revision))
    return json.dumps(parsed | {"x": random.Random(1).randbytes(600_000).hex()}).encode()


@needs_redis
async def test_a_half_open_line_is_noticed_within_seconds(broker: Broker) -> None:
    """A ping every two seconds must be answered within five, on the connection for messages and on the one for commands."""

    async def lose(number: int) -> None:
        async with Line(broker.port) as line, running(line.url, holder := Holder()) as bus:
            line.cut_one(number)
            begun = time.monotonic()
            await until(lambda: not bus.is_connected)
            assert time.monotonic() - begun < 10
            assert bus.view()["last_error"]
            await until(lambda: bus.is_connected)
            async with running(broker.url, Holder(7)):
                await until(lambda: holder.content == minimal(7))

    await asyncio.gather(lose(0), lose(1))


@needs_redis
async def test_a_broker_that_is_loading_is_waited_for(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that answers -LOADING at first is used when it has loaded. Proxies for upstream are not used for it."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    is_loading = True

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if is_loading:
            while request := await reader.read(4096):
                writer.write(b"-LOADING Redis is loading the dataset in memory\r\n" * request.count(b"*"))
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
    """A server that is not Redis may quote what it was sent; the password is removed, percent-encoded or not."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.read(4096)
        writer.write(b"-ERR unknown command, with args beginning with: " + request.replace(b"\r\n", b" ") + b"\r\n")
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
            await until(lambda: holder.seen)  # after the connection is closed, which comes after the error
            assert holder.seen[0] is None


async def test_a_broker_that_is_not_there_is_named_in_the_error() -> None:
    """The error says which address was tried, and what happened."""
    port = free_port()
    async with running(f"redis://127.0.0.1:{port}", Holder(), connected=False) as bus:
        await until(lambda: bus.view()["last_error"])
        assert f"redis://127.0.0.1:{port}" in bus.view()["last_error"]
        assert bus.view()["state"] == "disconnected"
        assert await bus.poll_lease(KEY, lambda _: True, 1) is Lease.OURS


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
    """User, password, database and TLS are all in the URL; the settings can be printed all the same."""
    loaded = settings.load({"DATAFILE_SDK_KEYS": KEY, "DATAFILE_BUS_URL": url})
    assert loaded.bus_url == url.strip()
    assert "hunter2" not in repr(loaded)


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
    """The mistake is named, the password is not; and certificate checks can't be turned off here."""
    with pytest.raises(settings.SettingsError) as caught:
        settings.load({"DATAFILE_SDK_KEYS": KEY, "DATAFILE_BUS_URL": url})
    assert "DATAFILE_BUS_URL" in str(caught.value)
    assert "hun" not in str(caught.value)


def test_without_a_bus_the_client_for_redis_is_not_even_imported() -> None:
    """A sidecar without a bus neither needs the package nor pays for it."""
    ours = {"redis", "datafile_sidecar.bus.compression"}
    code = (
        f"import sys, datafile_sidecar.cli.daemon, datafile_sidecar.cli.main; sys.exit(bool({ours} & {{*sys.modules}}))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_without_the_client_for_redis_only_redis_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to install; a bus with another broker works."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    telemetry = Telemetry(logs.configure("info", "json", sys.stderr), time.monotonic)
    with pytest.raises(BusError, match="pip install"):
        Bus("redis://127.0.0.1", telemetry)
    assert not Bus("memory:", telemetry, connect=MemoryServer().connect).is_connected


@pytest.mark.parametrize("error", [None, ModuleNotFoundError("No module named 'backports'")])
def test_without_zstandard_the_error_says_what_to_install(
    error: Exception | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis' client alone, as an earlier version needed it, is not enough: the sidecar says so when it starts."""

    def find_spec(name: str) -> object:
        if "zstd" in name and error:
            raise error
        return None if "zstd" in name else object()

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    telemetry = Telemetry(logs.configure("info", "json", sys.stderr), time.monotonic)
    with pytest.raises(BusError, match=r"Zstandard .*pip install"):
        Bus("redis://127.0.0.1", telemetry)


async def test_another_broker_carries_datafiles_checks_and_leases() -> None:
    """Nothing but `redis_broker.py` depends on Redis: the same bus works on a broker in memory."""
    server, sender, receiver, late = MemoryServer(), Holder(1), Holder(), Holder()
    async with running("memory:", sender, connect=server.connect) as bus:
        async with running("memory:", receiver, connect=server.connect) as other:
            assert receiver.seen == [1, None]
            sender.content, sender.fetched = minimal(2), time.time()
            bus.share(KEY)
            await until(lambda: receiver.seen == [1, None, 2])
            assert await bus.poll_lease(KEY, lambda _: True, 60) is Lease.OURS
            assert await other.poll_lease(KEY, lambda _: True, 60) is Lease.OTHERS
            bus.release_lease(KEY)
            await bus.settle()
            assert await other.poll_lease(KEY, lambda _: True, 60) is Lease.OURS
            check = Check(at=5.0, sha256="a" * 64)
            other.report_check(KEY, check)
            await other.settle()
            assert await bus.poll_lease(KEY, lambda seen: seen == check, 60) == check
        async with running("memory:", late, connect=server.connect):
            assert late.content == minimal(2)
    assert server.connections == []


async def test_a_restarted_broker_is_seeded_again() -> None:
    """Both members learn that the bus is gone, connect again, and the newest datafile is there again."""
    server, first, second = MemoryServer(), Holder(1), Holder(2)
    async with running("memory:", first, connect=server.connect) as bus:
        async with running("memory:", second, connect=server.connect):
            await until(lambda: first.seen == [None, 2])
            server.disconnect()
            await until(lambda: not bus.is_connected)
            assert "connection lost" in bus.view()["last_error"]
            await until(lambda: bus.is_connected and len(server.connections) == 2)
            assert first.seen[:3] == [None, 2, None]
            await until(lambda: server.read(VALUE))
            assert bus_values.read(server.read(VALUE)).datafile.body == minimal(2)


async def test_a_refusal_of_any_broker_ends_no_connection() -> None:
    """The error is shown until writes are taken again, a poll goes on without a lease, and nothing is lost."""
    server, holder = MemoryServer(), Holder(1)
    async with running("memory:", holder, connect=server.connect) as bus:
        server.refuses_writes = True
        holder.content = minimal(2)
        bus.share(KEY)
        await bus.settle()
        assert bus.view()["last_error"] == "memory:: out of memory"
        assert await bus.poll_lease(KEY, lambda _: True, 60) is Lease.OURS
        assert not bus.is_connected
        [connection] = server.connections
        server.refuses_writes = False
        await until(lambda: bus.is_connected)
        assert server.connections == [connection]
        await bus.settle()
        assert bus_values.read(server.read(VALUE)).datafile.body == minimal(2)


async def test_a_large_fleet_fills_an_empty_broker_by_few_writes() -> None:
    """Thousands of pods have the same datafile when a broker comes back empty: nearly all see that another one has written it."""
    server, pods = MemoryServer(), 20
    server.others = 10_000
    async with AsyncExitStack() as stack:
        entering = [running("memory:", Holder(2), connect=server.connect) for _ in range(pods)]
        await asyncio.gather(*map(stack.enter_async_context, entering))
        assert bus_values.read(server.read(VALUE)).datafile.body == minimal(2)
        assert server.tries[VALUE] < pods / 2


def test_a_silent_broker_is_lost_after_one_unanswered_ping() -> None:
    """On a clock that jumps: a broker that answers no ping is noticed at the end of its time, and not before."""
    loop = VirtualTimeLoop()

    async def silence() -> None:
        server = MemoryServer()
        async with running("memory:", Holder(1), connect=server.connect) as bus:
            await asyncio.sleep(PING_S / 2)
            server.is_silent, began = True, loop.time()
            await until(lambda: not bus.is_connected)
            lost_after_s = loop.time() - began
            # The next ping comes after three to five quarters of the usual time, half of which is over.
            assert PING_S / 4 - 0.1 < lost_after_s - ANSWER_WITHIN_S < 3 * PING_S / 4 + 0.1
            assert "no answer within 5 s" in bus.view()["last_error"]
            server.is_silent = False
            await until(lambda: bus.is_connected)

    loop.run_until_complete(silence())
    loop.close()
