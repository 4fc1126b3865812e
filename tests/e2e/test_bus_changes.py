"""A flip as real sidecars on a real Redis see it: the message brings the change, and whoever can't use it takes the whole."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from datafile_sidecar.bus import names
from tests.broker import Broker, needs_redis
from tests.datafiles import realistic
from tests.fleet import KEY, Fleet
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
    """How many bytes the broker has sent, without the answer that says so."""
    client = broker.client()
    first = (await client.info("stats"))["total_net_output_bytes"]
    second = (await client.info("stats"))["total_net_output_bytes"]
    return int(second - (second - first))


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
        before = await sent(broker)
        for revision in range(3, 3 + flips):
            await fleet.flip(revision, fleet.pods[revision % PODS], content=flipped(revision))
            await fleet.until_published(revision)
        await asyncio.sleep(0)
        a_pod_and_flip = (await sent(broker) - before) / PODS / flips
        assert a_pod_and_flip < MOST_BYTES
        assert await received(fleet.pods, "read") == whole
        assert sum(await received(fleet.pods, "changed")) == (PODS - 1) * flips
        # The pod that writes looks at the head of what it replaces, twice, and at no check or lease.
        assert (await calls(broker, "getrange") - reads) / flips <= 2
        print(f"{a_pod_and_flip:.0f} bytes")
