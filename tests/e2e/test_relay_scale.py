"""One real sidecar relays to hundreds of pretended pods, a quarter of which hang."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession

from datafile_sidecar.cli.simulator import Simulator, webhook_body
from datafile_sidecar.core.webhook import signature
from tests.datafiles import minimal
from tests.running import RunningSidecar
from tests.stopwatch import Stopwatch

KEY, SECRET, HANGING_EVERY = "KEY1", b"test-secret-1", 4


@contextlib.asynccontextmanager
async def pretended_pods(file: Path) -> AsyncIterator[tuple[int, int]]:
    """The pods' port, and the process that pretends to be them."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.pretended_pods", str(file), str(HANGING_EVERY), stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout
        yield int(await process.stdout.readline()), process.pid
    finally:
        process.kill()
        await process.wait()


async def post(sidecar: RunningSidecar, session: ClientSession, revision: int) -> None:
    """Post a webhook for this revision, as Optimizely does."""
    body = webhook_body(revision, origin_url=f"http://127.0.0.1:1/{KEY}.json", cdn_url="")
    async with session.post(
        sidecar.webhook_url, data=body, headers={"X-Hub-Signature": signature(body, SECRET)}
    ) as answer:
        assert answer.status == 202


@pytest.mark.system
@pytest.mark.parametrize(("pods", "share", "within_s"), [(500, 0.95, 1.5), (1000, 1.0, 3.0)])
async def test_every_live_pod_has_each_webhook_in_time(
    tmp_path: Path, pods: int, share: float, within_s: float
) -> None:
    """Again and again, and from the first webhook on, when it is not known yet which pods hang."""
    hosts = [f"127.1.{number // 200}.{number % 200 + 1}" for number in range(pods)]
    live = [host for host in hosts if int(host.rpartition(".")[2]) % HANGING_EVERY]
    file = tmp_path / "webhooks"
    async with contextlib.AsyncExitStack() as stack:
        port, pid = await stack.enter_async_context(pretended_pods(file))
        optimizely = await stack.enter_async_context(Simulator({KEY: minimal(100)}, secret=SECRET))
        settings: dict[str, Any] = {"url_template": optimizely.template, "poll_interval_s": 0}
        peers = ",".join(f"{host}:{port}" for host in hosts)
        sidecar = RunningSidecar(
            tmp_path / "volume", sdk_keys=KEY, webhook_secrets=SECRET.decode(), peers=peers, **settings
        )
        await stack.enter_async_context(sidecar)
        session = await stack.enter_async_context(ClientSession())
        for revision in (101, 102, 103):
            await post(sidecar, session, revision)
            stopwatch, lines = Stopwatch(sidecar.pid, pid), set[str]()
            while len(lines) < share * len(live):
                lines = {line for line in file.read_text().splitlines() if line.startswith(f"{revision} ")}
                assert stopwatch.seconds() < within_s, f"{len(lines)} of {len(live)} have revision {revision}"
                await asyncio.sleep(0.02)
            await sidecar.logged("webhook.relayed", outcomes={"delivered": len(live), "timeout": pods - len(live)})
