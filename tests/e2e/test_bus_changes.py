"""A flip as real sidecars on a real Redis see it: the message brings the change, and whoever can't use it takes the whole."""

import asyncio
import hashlib
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from datafile_sidecar.bus import names
from datafile_sidecar.core import bus_message
from datafile_sidecar.core.bus_message import Change
from tests import bus_values
from tests.broker import Broker, needs_redis
from tests.datafiles import realistic
from tests.fleet import KEY, Fleet, revision_of
from tests.hostile_frames import HOSTILE, bomb
from tests.running import RunningSidecar

pytestmark = needs_redis

PODS = 5
SIZE_KIB = 736
MOST_BYTES = 4096
"""Out of the broker, for each pod and flip."""
VALUE, CHANGES = names.value_key(KEY), names.changes_channel(KEY)


@pytest.fixture
async def broker() -> AsyncIterator[Broker]:
    async with Broker() as broker:
        yield broker


def flipped(revision: int, size_kib: int = SIZE_KIB) -> bytes:
    """A datafile in which one flag is on at every even revision."""
    parsed = json.loads(realistic(size_kib, revision, KEY))
    parsed["rollouts"][len(parsed["rollouts"]) // 2]["experiments"][0]["status"] = ("Paused", "Running")[revision % 2]
    return json.dumps(parsed, separators=(",", ":"), ensure_ascii=False).encode()


async def received(pods: list[RunningSidecar], outcome: str) -> list[int]:
    """How many datafiles each pod got from the bus in this way."""
    name = f'datafile_sidecar_bus_records_total{{outcome="{outcome}"}}'
    return [int((await pod.metrics())[name]) for pod in pods]


async def sent(broker: Broker) -> int:
    """How many bytes the broker has sent."""
    return int((await broker.client().info("stats"))["total_net_output_bytes"])


async def calls(broker: Broker, command: str) -> int:
    """How often the broker was given this command."""
    return int((await broker.client().info("commandstats")).get(f"cmdstat_{command}", {}).get("calls", 0))


async def test_a_flip_costs_the_broker_a_few_kilobytes_for_each_pod(broker: Broker, tmp_path: Path) -> None:
    """Five pods and 736 KiB: one message with the change is all that the others need; none of them reads a value."""
    async with Fleet(tmp_path, [{}] * PODS, bus_url=broker.url) as fleet:
        await fleet.until_quiet()
        await fleet.flip(2, fleet.pods[0], content=flipped(2))
        await fleet.until_published(2)
        await fleet.until_quiet()
        whole, reads, flips = await received(fleet.pods, "read"), await calls(broker, "getrange"), 6
        asking = -await sent(broker) + await sent(broker)  # the answer to this question is counted, too
        before = await sent(broker)
        for revision in range(3, 3 + flips):
            await fleet.flip(revision, fleet.pods[revision % PODS], content=flipped(revision))
            await fleet.until_published(revision)
        a_pod_and_flip = (await sent(broker) - before - asking) / PODS / flips
        assert a_pod_and_flip < MOST_BYTES
        assert await received(fleet.pods, "read") == whole
        assert sum(await received(fleet.pods, "changed")) == (PODS - 1) * flips
        # The pod that writes looks at the head of what it replaces, twice, and at no check or lease.
        assert (await calls(broker, "getrange") - reads) / flips <= 2


async def test_a_datafile_that_was_rewritten_is_read_whole(broker: Broker, tmp_path: Path) -> None:
    """With other spacing there is no small change: the message announces it, each pod reads it once, and upstream is asked once."""
    async with Fleet(tmp_path, [{}] * PODS, bus_url=broker.url) as fleet:
        await fleet.until_quiet()
        await fleet.flip(2, fleet.pods[0], content=flipped(2))
        await fleet.until_published(2)
        await fleet.until_quiet()
        whole, changed = await received(fleet.pods, "read"), await received(fleet.pods, "changed")
        fleet.optimizely.requests.clear()
        await fleet.flip(3, fleet.pods[0], content=json.dumps(json.loads(flipped(3)), indent=1).encode())
        await fleet.until_published(3)
        assert [after - before for before, after in zip(whole, await received(fleet.pods, "read"), strict=True)] == [
            0,
            *[1] * (PODS - 1),
        ]
        assert await received(fleet.pods, "changed") == changed
        assert fleet.full_fetches() == 1


async def test_hostile_changes_cost_little_and_lose_nothing(broker: Broker, tmp_path: Path) -> None:
    """Bombs, wrong bases and claims: no request to upstream, no value read, little memory, and the next flip arrives as ever."""
    async with Fleet(tmp_path, [{}] * 2, bus_url=broker.url) as fleet:
        await fleet.until_quiet()
        await fleet.flip(2, fleet.pods[0], content=(base := flipped(2)))
        await fleet.until_published(2)
        await fleet.until_quiet()
        fleet.optimizely.requests.clear()
        whole, peak = await received(fleet.pods, "read"), [peak_mib(pod) for pod in fleet.pods]
        before, bad = await sent(broker), 0
        frames = [text for text in HOSTILE.values() if len(text) < 16000]
        for number, frame in enumerate([*frames, bomb(8 << 20), bus_values.change_frame(flipped(4), flipped(5))] * 5):
            head = bus_values.head(base, revision=100 + number, sha256=f"{number:064x}")
            change = Change(hashlib.sha256(base).hexdigest(), head.sha256, frame)
            await broker.client().publish(CHANGES, bus_message.encode(head, 8_000_000, 0, change))
            bad += 1
        async with asyncio.timeout(60):
            while min(await received(fleet.pods, "bad")) < min(bad, 8):
                await asyncio.sleep(0.05)
        assert [revision_of(pod) for pod in fleet.pods] == [2, 2]
        assert fleet.optimizely.requests == []
        assert await received(fleet.pods, "read") == whole
        assert await sent(broker) - before < 300_000
        await fleet.flip(3, fleet.pods[0], content=flipped(3))
        await fleet.until_published(3)
        assert await received(fleet.pods, "read") == whole
        for pod, most in zip(fleet.pods, peak, strict=True):
            assert peak_mib(pod) - most < 40


def peak_mib(pod: RunningSidecar) -> float:
    """The most memory that it has had so far."""
    [kib] = re.findall(r"^VmHWM:\s+(\d+) kB$", Path(f"/proc/{pod.pid}/status").read_text(), re.MULTILINE)
    return int(kib) / 1024
