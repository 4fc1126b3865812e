"""A fleet on a real broker: one webhook reaches every pod, one poll serves all, and no fault of the broker is felt."""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from statistics import median

import pytest
from redis.exceptions import ResponseError

from datafile_sidecar.bus import names
from datafile_sidecar.cli.simulator import Simulator
from datafile_sidecar.core import datafile
from datafile_sidecar.core.bus_record import BadRecordError, Head
from tests import bus_values
from tests.broker import Broker, Line, needs_redis
from tests.datafiles import minimal
from tests.fleet import KEY, Fleet, revision_of
from tests.running import RunningSidecar
from tests.sidecar.wire import CA_FILE, server_tls

pytestmark = needs_redis

GRACE_S = 0.5
"""How long a pod that a webhook was relayed to waits for the bus, before it fetches for itself."""
NAME = f"datafile-sidecar:1:{KEY}"
VALUE, CHANGES = names.value_key(KEY), names.changes_channel(KEY)
OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"


@pytest.fixture
async def broker() -> AsyncIterator[Broker]:
    async with Broker() as broker:
        yield broker


@asynccontextmanager
async def fleet_of(count: int, directory: Path, bus_url: str, **settings: object) -> AsyncIterator[Fleet]:
    """Run this many pods on this bus."""
    async with Fleet(directory, [{}] * count, bus_url=bus_url, **settings) as fleet:
        yield fleet


async def test_one_webhook_reaches_five_pods(broker: Broker, tmp_path: Path) -> None:
    """All files within 300 ms (p50), one full fetch for each revision, one publication in each pod: no echo, no storm."""
    async with fleet_of(5, tmp_path, broker.url) as fleet:
        await fleet.until_quiet()
        fetched_at_start = fleet.full_fetches()
        fleet.optimizely.requests.clear()
        took = []
        for revision in range(2, 12):
            await fleet.flip(revision, fleet.pods[revision % 5])
            took += await fleet.until_published(revision)
        assert median(took) < 0.3
        await fleet.until_quiet()
        assert (len(fleet.optimizely.requests), fleet.full_fetches()) == (10, 10)
        triggers = []
        for pod in fleet.pods:
            published = [line for line in pod.logs if line["event"] == "datafile.published"]
            assert [line["revision"] for line in published] == list(range(1, 12))
            assert sum(line["trigger"] == "bus" for line in published[1:]) == 10 - 2
            triggers.append(published[0]["trigger"])
        # A pod that is slow to connect may start from upstream, like the first one.
        assert triggers.count("bus") == 5 - fetched_at_start


async def test_relayed_webhooks_leave_the_fetch_to_one_pod(broker: Broker, tmp_path: Path) -> None:
    """With peers and a bus, a flip still costs one fetch; where the bus brings nothing, each pod fetches for itself."""
    async with fleet_of(3, tmp_path, broker.url) as fleet:
        await fleet.until_quiet()
        took_s = GRACE_S
        for revision in range(2, 12):
            fleet.optimizely.requests.clear()
            begun = time.monotonic()
            await fleet.flip(revision, fleet.pods[0], relayed_to=fleet.pods[1:])
            await fleet.until_published(revision)
            took_s = time.monotonic() - begun
            await fleet.until_quiet()
            if took_s < GRACE_S:  # else the machine was too busy: each pod may rightly have stopped waiting for the bus
                break
        assert took_s < GRACE_S
        assert len(fleet.optimizely.requests) == 1
        broker.hang()
        await fleet.flip(12, fleet.pods[0], relayed_to=fleet.pods[1:])
        assert max(await fleet.until_published(12)) < 2


async def test_a_late_cdn_is_chased_by_two_pods(broker: Broker, tmp_path: Path) -> None:
    """Six pods were told of a revision that the CDN does not serve yet: two of them ask for it, and all have it a moment after."""
    async with fleet_of(6, tmp_path, broker.url) as fleet:
        await fleet.until_quiet()
        fleet.optimizely.requests.clear()
        await fleet.flip(2, fleet.pods[0], relayed_to=fleet.pods[1:], is_served=False)
        await asyncio.sleep(4)
        asked = len(fleet.optimizely.requests)
        fleet.optimizely.put(KEY, minimal(2))
        await fleet.until_published(2, within_s=3)
        # One pod asks up to 34 times in four seconds.
        assert 10 < asked <= 2 * 34


@pytest.mark.system
async def test_one_poll_serves_all_and_another_pod_takes_over(broker: Broker, tmp_path: Path) -> None:
    """The CDN sees one poll per interval from four pods; when pods die, the polls go on, and every check stays fresh."""
    async with fleet_of(4, tmp_path, broker.url, poll_interval_s=1) as fleet:
        await fleet.until_connected()
        await fleet.until_checked(*fleet.pods, within_s=2.5)
        for living in (fleet.pods, fleet.pods[2:]):
            took, every_s = await fleet.polls(6)
            assert took[3] < 5
            assert every_s > 5 / 7
            assert fleet.full_fetches() == 0
            await fleet.until_checked(*living, within_s=2.5)
            await asyncio.gather(fleet.pods[0].kill(), fleet.pods[1].kill())


@pytest.mark.system
async def test_a_pod_that_is_cut_off_from_the_cdn_lives_by_the_others(broker: Broker, tmp_path: Path) -> None:
    """Its own polls fail, it does not keep other pods from polling, and it takes their checks and datafiles."""
    cut_off: dict[str, object] = {"url_template": "http://127.0.0.1:9/{sdk_key}.json"}
    async with Fleet(tmp_path, [{}, cut_off], bus_url=broker.url, poll_interval_s=1) as fleet:
        await fleet.until_connected()
        fleet.optimizely.put(KEY, minimal(2))
        await fleet.until_published(2)
        took, every_s = await fleet.polls(5)
        assert took[2] < 4
        assert every_s > 4 / 6
        await fleet.until_checked(fleet.pods[1], within_s=3)
        lonely = await fleet.pods[1].metrics()
        assert lonely[f'datafile_sidecar_fetches_total{{outcome="ok",sdk_key="{KEY}",source="cdn"}}'] == 0


async def test_a_broker_that_comes_late_dies_and_comes_back_empty(tmp_path: Path) -> None:
    """Without it, each pod works alone and stays ready. With it, all share again, and the values that it lost are restored."""
    async with AsyncExitStack() as stack:
        broker = Broker()
        fleet = await stack.enter_async_context(fleet_of(2, tmp_path, broker.url))
        assert (await fleet.pods[0].status())["bus"]["state"] == "disconnected"
        await fleet.flip(2, fleet.pods[0])
        assert max(await fleet.until_published(2, fleet.pods[0])) < 0.5
        assert await fleet.probes(fleet.pods[0]) == [200, 200]
        await stack.enter_async_context(broker)
        await fleet.until_published(2)
        await fleet.until_connected()
        await broker.kill()
        await fleet.until_connected(state="disconnected")
        await fleet.flip(3, fleet.pods[0])
        assert max(await fleet.until_published(3, fleet.pods[0])) < 0.5
        assert revision_of(fleet.pods[1]) == 2
        await broker.start()
        await fleet.until_published(3)
        for pod in fleet.pods:
            assert sum(line["event"] == "bus.disconnected" for line in pod.logs) <= 3


@pytest.mark.system
@pytest.mark.parametrize("fault", ["hung", "half open"])
async def test_a_bus_that_goes_silent_is_noticed_and_comes_back(fault: str, broker: Broker, tmp_path: Path) -> None:
    """It gives no error. The receiving pod publishes at once, all stay ready, and lost messages are made up for."""
    async with Line(broker.port) as line, Fleet(tmp_path, [{"bus_url": broker.url}, {"bus_url": line.url}]) as fleet:
        await fleet.until_quiet()
        broker.hang() if fault == "hung" else line.cut()
        await fleet.flip(2, fleet.pods[0])
        assert max(await fleet.until_published(2, fleet.pods[0])) < 0.5
        assert [await fleet.probes(pod) for pod in fleet.pods] == [[200, 200]] * 2
        await fleet.until_connected(fleet.pods[1], state="disconnected", within_s=9)
        assert (await fleet.pods[1].metrics())["datafile_sidecar_bus_connected"] == 0
        assert revision_of(fleet.pods[1]) == 1
        assert [await fleet.probes(pod) for pod in fleet.pods] == [[200, 200]] * 2
        broker.go_on() if fault == "hung" else line.mend()
        await fleet.until_published(2, within_s=15)


async def test_a_replica_refuses_writes_and_is_promoted(broker: Broker, tmp_path: Path) -> None:
    """-READONLY after a failover: datafiles are published as ever, and shared again when there is a primary."""
    async with fleet_of(2, tmp_path, broker.url) as fleet:
        await fleet.until_connected()
        await broker.command("REPLICAOF", "127.0.0.1", "1")
        await fleet.flip(2, fleet.pods[0])
        assert max(await fleet.until_published(2, fleet.pods[0])) < 0.5
        await fleet.until_connected(fleet.pods[0], state="disconnected")
        assert "read only" in (await fleet.pods[0].status())["bus"]["last_error"]
        assert await fleet.probes(fleet.pods[0]) == [200, 200]
        await broker.command("REPLICAOF", "NO", "ONE")
        await fleet.until_published(2)


async def test_a_secret_in_the_query_of_a_mirror_is_not_shown(broker: Broker, tmp_path: Path) -> None:
    """Not in the log, in /status or on the bus; and requests are conditional all the same."""
    async with Simulator({KEY: minimal(1)}, secret=b"") as mirror:
        template = f"{mirror.template}?sig=hunter2"
        async with RunningSidecar(
            tmp_path, sdk_keys=KEY, url_template=template, bus_url=broker.url, poll_interval_s=1
        ) as pod:
            await pod.logged("bus_record.shared")
            async with asyncio.timeout(10):
                while all(request.status != 304 for request in mirror.requests):
                    await asyncio.sleep(0.05)
            mirror.put(KEY, b"[]")
            await pod.logged("fetch.failed", outcome="invalid")
            shown = pod.output + json.dumps(await pod.status()) + str(await pod.metrics())
        client = broker.client()
        on_bus = [str(await client.get(name)) for name in await client.keys() if await client.type(name) == b"string"]
        on_bus.append(str(await client.hgetall(names.fleet_names(KEY).pods)))
    assert "no valid datafile" in shown
    assert on_bus
    assert "hunter2" not in shown + "".join(on_bus)


async def test_a_wrong_password_is_named_and_never_shown(broker: Broker, tmp_path: Path) -> None:
    """-NOAUTH and -WRONGPASS are named in the reason. Once the broker takes the password, the pod connects. No output shows it."""
    admin = broker.client()
    await admin.config_set("requirepass", "its-own")
    urls = [f"redis://127.0.0.1:{broker.port}", f"redis://default:hunter2@127.0.0.1:{broker.port}/0"]
    async with Fleet(tmp_path, [{"bus_url": url} for url in urls]) as fleet:
        for pod, reason in zip(fleet.pods, ["Authentication required", "invalid username-password"], strict=True):
            assert reason in (await pod.logged("bus.disconnected"))["reason"]
            assert (await pod.status())["bus"]["state"] == "disconnected"
            assert await fleet.probes(pod) == [200, 200]
        await admin.config_set("requirepass", "hunter2")
        await fleet.until_connected(fleet.pods[1])
        pod = fleet.pods[1]
        shown = pod.output + json.dumps(await pod.status()) + str(await pod.metrics())
        assert "hunter2" not in shown


async def test_a_user_with_few_rights_is_enough(broker: Broker, tmp_path: Path) -> None:
    """The permissions in the documentation are enough, no key or channel of others is touched, and no form that nobody reads."""
    [rights] = re.findall(r"^user sidecars on >PASSWORD (.+)$", OPERATIONS.read_text(), re.MULTILINE)
    await broker.command("ACL", "SETUSER", "sidecar", "on", ">hunter2", *rights.split())
    url = f"redis://sidecar:hunter2@127.0.0.1:{broker.port}/0"
    async with fleet_of(2, tmp_path, url, poll_interval_s=1) as fleet:
        await fleet.until_connected()
        await fleet.flip(2, fleet.pods[0])
        await fleet.until_published(2)
        await fleet.until_checked(*fleet.pods, within_s=2.5)
        for pod in fleet.pods:
            assert (await pod.status())["bus"]["last_error"] is None
        assert await broker.client().exists(VALUE)
        assert not await broker.client().exists(names.earlier_value_key(KEY))  # it may count who listens


async def is_healed(broker: Broker) -> bool:
    """Return whether a good record of revision 1 is on the bus."""
    try:
        return bus_values.read(await broker.value(VALUE)).head.revision == 1
    except (BadRecordError, AssertionError, ResponseError):
        return False


async def test_garbage_is_counted_and_healed(broker: Broker, tmp_path: Path) -> None:
    """Whatever is in the keys or on the channel: no fetch, no file changes, and the next webhook reaches all."""
    async with fleet_of(2, tmp_path, broker.url) as fleet:
        await fleet.until_quiet()
        fleet.optimizely.requests.clear()
        admin = broker.client()
        for text in (b"", b"{", b"x" * 5_000_000, b'{"revision":"9e9"}', b'{"cdn_url":"http://127.0.0.1:9/evil"}'):
            await admin.publish(CHANGES, text)
        await admin.publish(names.changes_channel("KEY2"), b"{}")
        head = Head(generation=0, revision=99, sha256="a" * 64, fetched=time.time())
        for write in (
            admin.set(VALUE, b"\xff" * 100),
            admin.set(VALUE, head.encode() + b"\n" + bytes(9_000_000)),
            admin.lpush(VALUE, b"a list"),
        ):
            await admin.delete(VALUE, f"{NAME}:checked", f"{NAME}:poll")
            await write
            await admin.lpush(f"{NAME}:checked", b"x")
            await admin.lpush(f"{NAME}:poll", b"x")
            await admin.publish(CHANGES, bus_values.message(head, b""))
            stopwatch = fleet.stopwatch()
            while not await is_healed(broker):
                assert stopwatch.seconds() < 5
                await asyncio.sleep(0.02)
        assert fleet.optimizely.requests == []
        assert [revision_of(pod) for pod in fleet.pods] == [1, 1]
        assert (await fleet.pods[0].metrics())['datafile_sidecar_bus_records_total{outcome="bad"}'] >= 6
        await fleet.flip(2, fleet.pods[0])
        await fleet.until_published(2)
        assert all("evil" not in pod.output for pod in fleet.pods)


async def test_a_message_without_end_costs_no_memory(broker: Broker, tmp_path: Path) -> None:
    """30 MiB on our channel: it is skipped while it comes in, the connection stays, and so does the speed of all else."""
    async with fleet_of(1, tmp_path, broker.url) as fleet:
        await fleet.until_connected()
        [pod] = fleet.pods
        before, since = peak_mib(pod), (await pod.status())["bus"]["since"]
        for number in range(1, 4):
            # One after the other: Redis itself disconnects a subscriber to which it owes more than 32 MiB.
            await broker.client().publish(CHANGES, b"x" * (30 << 20))
            async with asyncio.timeout(30):
                while (await pod.metrics())['datafile_sidecar_bus_records_total{outcome="bad"}'] < number:
                    await asyncio.sleep(0.02)
        await pod.logged("bus_record.rejected")
        await fleet.flip(2, pod)
        await fleet.until_published(2)
        assert await fleet.probes(pod) == [200, 200]
        assert peak_mib(pod) - before < 16
        assert (await pod.status())["bus"]["since"] == since


def peak_mib(pod: RunningSidecar) -> float:
    """The most memory that it has had so far."""
    status = Path(f"/proc/{pod.pid}/status").read_text()
    [kib] = re.findall(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    return int(kib) / 1024


@pytest.mark.parametrize("polls", [{"poll_interval_s": 3600}, {"poll_interval_s": 0}])
async def test_a_value_that_is_gone_is_asked_of_upstream(
    broker: Broker, tmp_path: Path, polls: dict[str, object]
) -> None:
    """The broker evicts a datafile before it is read: one pod fetches it, and all have it by the bus again."""
    async with fleet_of(2, tmp_path, broker.url, **polls) as fleet:
        await fleet.until_quiet()
        fleet.optimizely.requests.clear()
        fleet.optimizely.put(KEY, minimal(2))
        admin = broker.client()
        await admin.delete(VALUE)
        head = Head(generation=0, revision=2, sha256=datafile.parse(minimal(2), KEY).sha256, fetched=time.time())
        await admin.publish(CHANGES, bus_values.message(head, minimal(2)))
        await fleet.until_published(2, within_s=5)
        assert len(fleet.optimizely.requests) <= 2
        assert bus_values.read(await broker.value(VALUE)).head.revision in {1, 2}
        for pod in fleet.pods:
            assert not [line for line in pod.logs if line["event"] == "bus_record.rejected"]
        assert any(line["event"] == "bus_record.missing" for pod in fleet.pods for line in pod.logs)


async def test_a_broker_that_takes_no_writes_is_not_called_connected(broker: Broker, tmp_path: Path) -> None:
    """`/status`, metrics and log say so, with the reason; a relayed webhook does not wait for it; and it heals by itself."""
    await broker.command("CONFIG", "SET", "maxmemory", "1")
    async with fleet_of(2, tmp_path, broker.url) as fleet:
        for pod in fleet.pods:
            assert "takes no writes: OOM" in (await pod.logged("bus.refused"))["reason"]
            bus = (await pod.status())["bus"]
            assert (bus["state"], bus["since"]) == ("disconnected", None)
            assert "takes no writes: OOM" in bus["last_error"]
            assert (await pod.metrics())["datafile_sidecar_bus_connected"] == 0
        await fleet.flip(2, fleet.pods[0], relayed_to=fleet.pods[1:])
        assert max(await fleet.until_published(2)) < GRACE_S
        await broker.command("CONFIG", "SET", "maxmemory", "0")
        await fleet.until_connected()
        assert (await fleet.pods[1].metrics())["datafile_sidecar_bus_connected"] == 1
        await fleet.flip(3, fleet.pods[0])
        await fleet.until_published(3)
        assert all(line["event"] != "bus.disconnected" for pod in fleet.pods for line in pod.logs)


@pytest.mark.system
async def test_a_restored_project_is_restored_in_the_whole_fleet(broker: Broker, tmp_path: Path) -> None:
    """All pods go back to the older revision once, and none flips between the two."""
    async with fleet_of(3, tmp_path, broker.url, poll_interval_s=1, rollback_after_s=2) as fleet:
        await fleet.until_connected()
        await fleet.flip(5, fleet.pods[0])
        await fleet.until_published(5)
        fleet.optimizely.put(KEY, minimal(3))
        await fleet.until_published(3)
        for _ in range(2):
            await fleet.until_checked(*fleet.pods, within_s=2.5)
        for pod in fleet.pods:
            published = [line["revision"] for line in pod.logs if line["event"] == "datafile.published"]
            assert published in ([1, 5, 3], [5, 3])
            assert (await pod.status())["keys"][KEY]["generation"] == 1


@pytest.mark.system
async def test_a_poisoned_bus_is_overruled_by_upstream(broker: Broker, tmp_path: Path) -> None:
    """A valid datafile that upstream never served spreads, as the documentation warns, and is replaced again without help."""
    async with fleet_of(3, tmp_path, broker.url, poll_interval_s=1, rollback_after_s=2) as fleet:
        await fleet.until_connected()
        body = minimal(999)
        sha256 = datafile.parse(body, KEY).sha256
        head = Head(generation=0, revision=999, sha256=sha256, fetched=time.time())
        admin = broker.client()
        await admin.set(VALUE, bus_values.value(head, body))
        await admin.publish(CHANGES, bus_values.message(head, body))
        await fleet.until_published(999)
        await fleet.until_published(1)
        for _ in range(2):
            await fleet.until_checked(*fleet.pods, within_s=2.5)
        for pod in fleet.pods:
            published = [line["revision"] for line in pod.logs if line["event"] == "datafile.published"]
            assert published == [1, 999, 1]
        assert bus_values.read(await broker.value(VALUE)).head.generation == 1


async def test_a_new_pod_starts_from_the_bus_while_upstream_is_down(broker: Broker, tmp_path: Path) -> None:
    """A pod that was just scheduled has the newest datafile at once, though Optimizely can't be reached."""
    async with fleet_of(1, tmp_path, broker.url) as fleet:
        await fleet.until_connected()
        await fleet.flip(2, fleet.pods[0])
        await fleet.until_published(2)
        late = fleet.pod(9, bus_url=broker.url, url_template="http://127.0.0.1:9/{sdk_key}.json")
        async with late:
            assert revision_of(late) == 2
            assert (await late.status())["keys"][KEY]["trigger"] == "bus"


async def test_over_tls_with_a_user_of_its_own(tmp_path: Path) -> None:
    """`rediss://` with user and password works with the CA in SSL_CERT_FILE. Without it, the error names the certificate."""
    rights = "resetchannels ~datafile-sidecar:1:* &datafile-sidecar:1:* -@all +getrange +set +del +watch +unwatch +multi +exec"
    rights += " +discard +publish +subscribe +unsubscribe +ping"
    async with (
        Broker("--user", "sidecar", "on", ">hunter2", *rights.split()) as broker,
        Line(broker.port, server_tls()) as line,
    ):
        url = line.url.replace("//", "//sidecar:hunter2@")
        async with Fleet(tmp_path, []) as fleet:
            pods = [fleet.pod(number, bus_url=url) for number in range(3)]
            for pod in pods[:2]:
                pod.environment["SSL_CERT_FILE"] = str(CA_FILE)
            async with pods[0], pods[1], pods[2]:
                await fleet.until_connected(*pods[:2])
                await fleet.flip(2, pods[0])
                await fleet.until_published(2, *pods[:2])
                assert (await pods[1].status())["keys"][KEY]["trigger"] == "bus"
                await pods[2].logged("bus.disconnected")
                stranger = (await pods[2].status())["bus"]
                assert stranger["state"] == "disconnected"
                assert "certificate" in stranger["last_error"]
                shown = "".join([pod.output + json.dumps(await pod.status()) for pod in pods])
                assert "hunter2" not in shown
