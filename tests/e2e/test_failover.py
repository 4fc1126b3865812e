"""A broker that fails over: Sentinels name another master, or a cluster gives the slot to another node, and the fleet follows."""

import re
from pathlib import Path

import pytest

from datafile_sidecar.bus.names import in_one_slot, value_key
from datafile_sidecar.cli.status_bus import BusStatusClient
from datafile_sidecar.core.wait_target import WaitTarget
from tests.broker import needs_redis
from tests.failover import DETECTION_S, MASTER, Cluster, SentinelGroup, certificate, needs_redis_cluster
from tests.fleet import KEY, Fleet

TOLD_AGAIN_WITHIN_S = DETECTION_S + 10
OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"
BUS_KEY = in_one_slot(value_key(KEY))


@needs_redis
@pytest.mark.parametrize("fault", ["kill", "hang"])
async def test_another_master_is_found_in_the_midst_of_a_flip(fault: str, tmp_path: Path) -> None:
    """Nothing is lost when the master dies or freezes during a flip, and a later flip comes by the new master."""
    async with SentinelGroup() as group, Fleet(tmp_path, [{}] * 3, bus_url=group.url) as fleet:
        await fleet.until_connected()
        await fleet.flip(2, fleet.pods[0])
        await fleet.until_published(2)
        await fleet.flip(3, fleet.pods[0])
        if fault == "kill":
            await group.master.kill()
        else:
            group.master.hang()
        await _until_told_again(fleet, 4)
        assert (await group.replica.client().info("replication"))["role"] == "master"


async def test_a_master_that_comes_back_as_a_replica_is_left(tmp_path: Path) -> None:
    """A failover without a fault moves every pod to the new master, though the old one lives and answers."""
    async with SentinelGroup() as group, Fleet(tmp_path, [{}] * 3, bus_url=group.url) as fleet:
        await fleet.until_connected()
        await group.fail_over()
        await _until_told_again(fleet, 2)


@needs_redis_cluster
@pytest.mark.system
@pytest.mark.parametrize("fault", ["kill", "hang"])
async def test_another_node_of_a_cluster_takes_over_in_the_midst_of_a_flip(fault: str, tmp_path: Path) -> None:
    """Nothing is lost when the node that owns the bus's slot dies or freezes, and its replica carries the next flip."""
    async with Cluster(BUS_KEY) as cluster, Fleet(tmp_path, [{}] * 3, bus_url=cluster.url) as fleet:
        await fleet.until_connected()
        await fleet.flip(2, fleet.pods[0])
        await fleet.until_published(2)
        await fleet.flip(3, fleet.pods[0])
        if fault == "kill":
            await cluster.owner.kill()
        else:
            cluster.owner.hang()
        await _until_told_again(fleet, 4)


@needs_redis_cluster
@pytest.mark.system
async def test_a_slot_that_moves_is_followed(tmp_path: Path) -> None:
    """A cluster that is resharded costs no flip: the new owner is found by what the old one says."""
    async with Cluster(BUS_KEY) as cluster, Fleet(tmp_path, [{}] * 3, bus_url=cluster.url) as fleet:
        await fleet.until_connected()
        await cluster.owner.command("FLUSHALL")
        await cluster.move_slot(cluster.others[0])
        await _until_told_again(fleet, 2)


@needs_redis_cluster
@pytest.mark.system
async def test_a_plain_url_that_meets_a_cluster_says_so(tmp_path: Path) -> None:
    """The error names the cluster, whichever of its nodes the URL names; it does not stay connected to one of them."""
    async with Cluster(BUS_KEY) as cluster, Fleet(tmp_path, [{}], bus_url=cluster.owner.url) as fleet:
        event = await fleet.pods[0].logged("bus.disconnected")
        assert "node of a Redis Cluster" in str(event)
        assert (await fleet.pods[0].status())["bus"]["state"] == "disconnected"


@needs_redis
async def test_a_master_that_no_sentinel_knows_is_named(tmp_path: Path) -> None:
    """The error says which Sentinel was asked, and by which name."""
    async with SentinelGroup() as group:
        url = group.url.replace(MASTER, "nobody")
        async with Fleet(tmp_path, [{}], bus_url=url) as fleet:
            event = str(await fleet.pods[0].logged("bus.disconnected"))
            assert re.search(rf"127\.0\.0\.1:{group.port}: .*no master by the name nobody", event)


@needs_redis
async def test_a_password_is_told_to_the_servers_and_to_sentinels_that_want_it(tmp_path: Path) -> None:
    """User and password of the URL are those of the servers; a Sentinel with a password of its own gets the same."""
    async with SentinelGroup("hunter2") as group:
        async with Fleet(tmp_path, [{}] * 2, bus_url=group.url.replace("//", "//:hunter2@")) as fleet:
            await fleet.until_connected()
            await fleet.flip(2, fleet.pods[0])
            await fleet.until_published(2)
            assert "hunter2" not in "".join(pod.output for pod in fleet.pods) + str(await fleet.pods[0].status())


@needs_redis_cluster
@pytest.mark.system
@pytest.mark.parametrize("kind", ["sentinel", "cluster"])
async def test_tls_and_a_user_with_few_rights_are_enough(kind: str, tmp_path: Path) -> None:
    """The permissions in the documentation are enough for Sentinel and cluster, and every connection uses TLS."""
    tls = certificate(tmp_path)
    brokers = SentinelGroup(tls=tls) if kind == "sentinel" else Cluster(BUS_KEY, tls=tls)
    text = OPERATIONS.read_text()
    rights = re.findall(r"^user sidecars on >PASSWORD (.+)$", text, re.MULTILINE)[0].split()
    more = re.findall(r"in a cluster, add `(.+)`", text)[0].split() if kind == "cluster" else []
    async with brokers, Fleet(tmp_path, []) as fleet:
        for server in brokers.servers:
            await server.command("ACL", "SETUSER", "sidecar", "on", ">hunter2", *rights, *more)
        pods = [fleet.pod(number, bus_url=brokers.url.replace("//", "//sidecar:hunter2@")) for number in range(2)]
        for pod in pods:
            pod.environment["SSL_CERT_FILE"] = str(tls)
        async with pods[0], pods[1]:
            await fleet.until_connected(*pods)
            await fleet.until_published(1, *pods)
            await fleet.flip(2, pods[0])
            await fleet.until_published(2, *pods)
            assert (await pods[1].status())["keys"][KEY]["trigger"] == "bus"
            assert "hunter2" not in "".join(pod.output for pod in pods)


async def _until_told_again(fleet: Fleet, revision: int) -> None:
    """Wait until a flip that one pod is told of reaches the others by the bus, and is proven; fails where that takes too long.

    Each attempt is a revision of its own: what a broken bus did not carry is fetched for other reasons, too.
    """
    stopwatch = fleet.stopwatch()
    await fleet.until_published(revision - 1, within_s=TOLD_AGAIN_WITHIN_S)
    while True:
        await fleet.flip(revision, fleet.pods[0])
        await fleet.until_published(revision, fleet.pods[0])
        try:
            await fleet.until_published(revision, *fleet.pods[1:], within_s=1)
        except AssertionError:
            assert stopwatch.seconds() < TOLD_AGAIN_WITHIN_S
            revision += 1
            continue
        triggers = {(await pod.status())["keys"][KEY]["trigger"] for pod in fleet.pods[1:]}
        assert triggers == {"bus"}
        assert await _lagging(fleet, revision) == []
        return


async def _lagging(fleet: Fleet, revision: int) -> list[str]:
    """Who lags, as `status` reads it from the same broker."""
    client = BusStatusClient(fleet.pods[0].environment["DATAFILE_BUS_URL"], [KEY], None)
    answers, target = await client.wait(WaitTarget(KEY, revision, workers_required=False), 20)
    return target.lagging(answers)
