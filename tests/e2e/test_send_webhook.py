"""`send-webhook` against real sidecars: the one in this pod is found by its settings, and a mistake can be taken back."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.broker import free_port
from tests.datafiles import minimal
from tests.fleet import KEY, Fleet
from tests.running import RunningSidecar


@dataclass
class Pair:
    """Two sidecars on fixed ports, each the other's peer, and the command in the first one's container."""

    fleet: Fleet
    pods: list[RunningSidecar]

    async def send(self, *arguments: str, sdk_key: str = KEY, **environment: str) -> tuple[int, str]:
        """Run the command with the environment of the first pod; return its exit status and what it says."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "datafile_sidecar", "send-webhook", "--sdk-key", sdk_key, *arguments),
            env=self.pods[0].environment | environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        async with asyncio.timeout(30):
            output, _ = await process.communicate()
        assert process.returncode is not None
        return process.returncode, output.decode()

    async def until_target(self, revision: int) -> None:
        """Wait until both pods have this target."""
        async with asyncio.timeout(10):
            for pod in self.pods:
                while (await pod.status())["keys"][KEY]["target_revision"] != revision:
                    await asyncio.sleep(0.02)


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    ports = [(free_port(), free_port()) for _ in range(2)]
    peers = ",".join(f"127.0.0.1:{webhook}" for webhook, _ in ports)
    async with AsyncExitStack() as stack:
        fleet = await stack.enter_async_context(Fleet(tmp_path, []))
        pods = [
            fleet.pod(number, webhook_listen=f":{webhook}", admin_listen=f":{admin}", peers=peers)
            for number, (webhook, admin) in enumerate(ports)
        ]
        for pod in pods:
            await stack.enter_async_context(pod)
        yield Pair(fleet, pods)


async def test_a_refresh_needs_no_number(pair: Pair) -> None:
    """`--refresh` lets every pod fetch what upstream serves now; the sidecar of this pod is found by its settings."""
    pair.fleet.optimizely.put(KEY, minimal(2))
    exit_status, said = await pair.send("--refresh")
    assert exit_status == 0, said
    await pair.fleet.until_published(2, *pair.pods)


async def test_a_revision_that_was_announced_by_mistake_is_taken_back(pair: Pair) -> None:
    """After `--withdraw`, no pod waits for it any more, and the next true webhook is as fast as ever."""
    assert (await pair.send("--revision", "90"))[0] == 0
    await pair.until_target(90)
    exit_status, said = await pair.send("--withdraw", "90")
    assert exit_status == 0, said
    await pair.until_target(1)
    for pod in pair.pods:
        assert (await pod.logged("revision.withdrawn", revision=90))["sdk_keys"] == [KEY]
    await pair.fleet.flip(2, pair.pods[0])
    await pair.fleet.until_published(2, *pair.pods)
    exit_status, said = await pair.send("--withdraw", "90")
    assert (exit_status, "nothing to do" in said) == (0, True)


async def test_what_nobody_can_mean_is_not_sent(pair: Pair) -> None:
    """A number far above the known one needs `--force`, and an SDK key that the sidecar does not serve is named."""
    exit_status, said = await pair.send("--revision", "102")
    assert (exit_status, "101 above" in said, "--force" in said) == (1, True, True)
    exit_status, said = await pair.send("--refresh", sdk_key="OTHER")
    assert (exit_status, f"it serves {KEY}" in said) == (1, True)
    for pod in pair.pods:
        assert not [line for line in pod.logs if line["event"] == "webhook.accepted"]
    assert (await pair.send("--revision", "102", "--force"))[0] == 0
    await pair.until_target(102)


async def test_another_endpoint_says_itself_that_it_does_not_serve_the_key(pair: Pair) -> None:
    """With `--url`, nobody is asked before; the answer still tells an unknown key from an old revision."""
    url = pair.pods[1].webhook_url
    exit_status, said = await pair.send("--url", url, "--refresh", sdk_key="OTHER")
    assert (exit_status, "none of the SDK keys" in said) == (1, True)
    exit_status, said = await pair.send("--url", url, "--revision", "1")
    assert (exit_status, "nothing to do" in said) == (0, True)


async def test_a_stranger_takes_nothing_back(pair: Pair) -> None:
    """A withdrawal is signed like any webhook: without the secret it changes nothing."""
    assert (await pair.send("--revision", "90"))[0] == 0
    await pair.until_target(90)
    exit_status, said = await pair.send("--withdraw", "90", DATAFILE_WEBHOOK_SECRETS="another")
    assert (exit_status, "401" in said) == (1, True)
    assert (await pair.pods[0].status())["keys"][KEY]["target_revision"] == 90
