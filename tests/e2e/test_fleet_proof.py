"""`status` with the bus alone, and real sidecars, workers and a real Redis: the proof that a revision is everywhere."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from datafile_sidecar.bus.names import fleet_names
from datafile_sidecar.cli.simulator import Simulator
from datafile_sidecar.cli.status_bus import BusStatusClient
from datafile_sidecar.core.fleet_roster import Excuses
from datafile_sidecar.core.wait_target import LATEST, WaitTarget
from tests import fleet_faults
from tests.broker import Broker, needs_redis
from tests.datafiles import minimal
from tests.fleet_faults import KEY, Network, Pod

pytestmark = needs_redis

NAMES = fleet_names(KEY)
OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"


class Fleet:
    """Pods of a worker each, on one broker, which all have revision 1 to begin with."""

    def __init__(self, broker: Broker, optimizely: Simulator, pods: list[Pod], stack: AsyncExitStack) -> None:
        self.broker, self.optimizely, self.pods, self.stack = broker, optimizely, pods, stack

    async def flip(self, revision: int, by: int = 0) -> None:
        """Announce a revision to one pod."""
        sidecar = self.pods[by].sidecar
        assert sidecar
        self.optimizely.put(KEY, minimal(revision))
        self.optimizely.webhook_urls = [sidecar.webhook_url]
        await self.optimizely.announce(KEY, revision)

    async def lagging(self, revision: int, timeout_s: float = 30, excuses: Excuses | None = None) -> list[str]:
        """Who lags in the end."""
        client = BusStatusClient(self.broker.url, [KEY], excuses)
        answers, target = await client.wait(WaitTarget(KEY, revision), timeout_s)
        return target.lagging(answers)

    async def until(self, is_so: Callable[[set[bytes]], bool]) -> None:
        """Wait until this is so of the names on the bus."""
        client = self.broker.client()
        async with asyncio.timeout(20):
            while not is_so({bytes(n) for n in await client.hkeys(NAMES.pods) if isinstance(n, bytes)} - {b"since"}):
                await asyncio.sleep(0.02)


@asynccontextmanager
async def fleet_of(directory: Path, *names: str, bus_user: str = "", **settings: object) -> AsyncIterator[Fleet]:
    async with AsyncExitStack() as stack:
        broker = await stack.enter_async_context(Broker())
        optimizely = await stack.enter_async_context(Simulator({KEY: minimal(1)}, secret=b"s"))
        common: dict[str, object] = {
            "sdk_keys": KEY,
            "url_template": optimizely.template,
            "webhook_secrets": "s",
            "poll_interval_s": 3600,
        }
        pods = []
        for number, name in enumerate(names):
            network = await stack.enter_async_context(Network(broker.port))
            pods.append(Pod(directory / str(number), name, common | settings, network))
            stack.push_async_callback(pods[-1].end)
        await asyncio.gather(*(pod.start_sidecar(stack) for pod in pods))
        await asyncio.gather(*(pod.start_worker() for pod in pods))
        yield Fleet(broker, optimizely, pods, stack)


async def test_every_process_of_every_pod(tmp_path: Path) -> None:
    """The yes comes when the last worker of the last pod uses the revision; a stopped worker is named until it goes on."""
    async with fleet_of(tmp_path, "checkout-1", "checkout-2") as fleet:
        assert await fleet.lagging(1) == []
        [stopped] = fleet.pods[1].living()
        os.kill(stopped, signal.SIGSTOP)
        await fleet.flip(2)
        said = await fleet.lagging(2, 3)
        assert [f"pid {stopped} on" in sentence for sentence in said] == [True]
        os.kill(stopped, signal.SIGCONT)
        assert await fleet.lagging(2) == []


async def test_from_a_shell(tmp_path: Path) -> None:
    """With the URL of the bus and nothing else, the command gives the yes of the whole fleet."""
    async with fleet_of(tmp_path, "checkout-1", "checkout-2") as fleet:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "datafile_sidecar", "status", "--sdk-key", KEY, "--wait-for-revision", "1"),
            env={"DATAFILE_BUS_URL": fleet.broker.url},
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await process.communicate()
        assert process.returncode == 0
        assert out.decode().startswith("KEY1: 2 pods, 2 workers\n  at revision 1: 2 pods\n")


async def test_latest_is_what_any_pod_has_heard_of(tmp_path: Path) -> None:
    """A webhook that upstream does not follow yet is waited for from the moment that one pod has it."""
    async with fleet_of(tmp_path, "checkout-1", "checkout-2") as fleet:
        assert await fleet.lagging(1) == []
        sidecar = fleet.pods[0].sidecar
        assert sidecar
        fleet.optimizely.webhook_urls = [sidecar.webhook_url]
        wanted = set[int | None]()
        for revision in (7, 8, 9):  # a heartbeat may come by chance, but not three times
            await fleet.optimizely.announce(KEY, revision)
            await asyncio.sleep(1)
            wanted.add(WaitTarget(KEY, LATEST).wanted(await BusStatusClient(fleet.broker.url, [KEY]).ask(5)))
        assert wanted == {7, 8, 9}


async def test_two_pods_of_one_name(tmp_path: Path) -> None:
    """Two StatefulSets of one name on one bus: one that is cut off is not hidden by the other, which goes on."""
    async with fleet_of(tmp_path, "checkout-0", "checkout-0") as fleet:
        assert await fleet.lagging(1) == []
        fleet.pods[1].network.cut()
        await fleet.flip(2)
        (first, *_) = await fleet.lagging(2, 4)
        assert first.startswith("checkout-0 (")
        fleet.pods[1].network.heal()
        assert await fleet.lagging(2) == []


async def test_a_pod_that_is_cut_off_needs_an_excuse(tmp_path: Path) -> None:
    """First what it has is too old; then it is not heard; and it is in the proof for as long as nobody excuses it."""
    async with fleet_of(tmp_path, "checkout-1", "checkout-2") as fleet:
        await fleet.flip(2)
        assert await fleet.lagging(2) == []
        fleet.pods[1].network.cut()
        async with asyncio.timeout(30):
            while not any("has not been heard for" in sentence for sentence in await fleet.lagging(2, 1)):
                await asyncio.sleep(0.2)
        assert await fleet.lagging(2, 2, Excuses(("checkout-2",))) == []
        assert await fleet.lagging(2, 2, Excuses(after_s=3)) == []
        assert await fleet.lagging(2, 2, Excuses(("checkout-1",), 600))
        fleet.pods[1].network.heal()
        assert await fleet.lagging(2) == []


async def test_a_sidecar_that_is_killed_is_replaced_by_its_successor(tmp_path: Path) -> None:
    """Until it runs again, its pod is not confirmed; then its old name is gone, and the yes comes without an excuse."""
    async with fleet_of(tmp_path, "checkout-1", "checkout-2") as fleet:
        assert await fleet.lagging(1) == []
        await fleet.pods[1].kill_sidecar()
        await fleet.flip(2)
        assert any("checkout-2" in sentence for sentence in await fleet.lagging(2, 2))
        await fleet.pods[1].start_sidecar(fleet.stack)
        assert await fleet.lagging(2) == []
        await fleet.until(lambda names: len(names) == 2)


async def test_an_orderly_end_removes_the_pod(tmp_path: Path) -> None:
    """After a rollout, nobody waits for the pods of before."""
    async with fleet_of(tmp_path, "checkout-1", "checkout-2") as fleet:
        await fleet.until(lambda names: len(names) == 2)
        sidecar = fleet.pods[1].sidecar
        assert sidecar
        assert await sidecar.stop() == 0
        await fleet.until(lambda names: {name.split(b"/")[0] for name in names} == {b"checkout-1"})
        assert await fleet.lagging(1) == []


async def test_a_broker_that_comes_back_empty_loses_no_pod(tmp_path: Path) -> None:
    """A pod that is cut off while the broker loses its memory is named by the others, and is no yes."""
    async with fleet_of(tmp_path, "checkout-1", "checkout-2", "checkout-3") as fleet:
        assert await fleet.lagging(1) == []
        fleet.pods[2].network.cut()
        await fleet.broker.kill()
        await fleet.broker.start()
        await fleet.until(lambda names: len(names) == 3)
        said = await fleet.lagging(1, 6)
        assert [sentence for sentence in said if sentence.startswith("checkout-3 (")] == said
        assert "since the bus lost its memory" in said[0]
        fleet.pods[2].network.heal()
        assert await fleet.lagging(1) == []


async def test_missing_permissions_disable_the_proof_and_not_the_bus(tmp_path: Path) -> None:
    """With the ACL of an older version, datafiles are shared as ever, and `/status` and the log say what is missing."""
    [rule] = [line for line in OPERATIONS.read_text().splitlines() if line.startswith("user sidecars on ")]
    rights = rule.replace(">PASSWORD", ">hunter2").split()[2:]
    async with fleet_of(tmp_path, "checkout-1", "checkout-2") as fleet:
        assert await fleet.lagging(1) == []
        missing = {"+hset", "+hsetnx", "+hget", "+hdel", "+hlen", "+hscan", "+hrandfield", "+incr", "+expire", "+time"}
        assert missing < set(rights)
        await fleet.broker.command(
            "ACL", "SETUSER", "default", "resetkeys", *(r for r in rights[3:] if r not in missing)
        )
        sidecar = fleet.pods[1].sidecar
        assert sidecar
        refused = await sidecar.logged("bus.fleet_refused")
        assert "no permissions" in refused["reason"]
        assert "hset" in refused["reason"]
        await fleet.flip(2)
        await sidecar.logged("datafile.published", revision=2, trigger="bus")
        bus = (await sidecar.status())["bus"]
        assert bus["state"] == "connected"
        assert bus["fleet"]["state"] == "unregistered"
        assert "no permissions" in (await fleet.lagging(2, 1))[0]


@pytest.mark.parametrize("seed", [5])
async def test_no_yes_is_false(seed: int) -> None:
    """On call reads a yes only when every process uses the revision, whatever fails; and reads it soon after the last fault."""
    done = await fleet_faults.run(25, seed, pods=3)
    assert done.counts["no"]
    assert done.counts["yes"]
