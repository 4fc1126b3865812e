"""Real sidecars in the states that alerts are for, and in some that must not alarm anybody: each is scraped twice."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import ClientSession, web

from datafile_sidecar.cli.simulator import Simulator, webhook_body
from datafile_sidecar.core.webhook import signature
from tests import datafiles
from tests.running import RunningSidecar

KEY, SECRET = "KEY1", b"test-secret-1"
Samples = dict[str, float]


@dataclass(frozen=True, slots=True)
class Scrape:
    """What `/metrics` said, and when, in Unix seconds."""

    at: float
    samples: Samples


@dataclass(slots=True)
class Stage:
    """A sidecar that polls each second, what it fetches from, and somebody who posts webhooks."""

    sidecar: RunningSidecar
    optimizely: Simulator
    browser: ClientSession

    async def scrape(self) -> Scrape:
        return Scrape(time.time(), await self.sidecar.metrics())

    async def post(self, revision: int, secret: bytes = SECRET) -> None:
        body = webhook_body(revision, cdn_url=f"/datafiles/{KEY}.json")
        await self.browser.post(
            self.sidecar.webhook_url, data=body, headers={"X-Hub-Signature": signature(body, secret)}
        )

    async def until(self, name: str, is_so: Callable[[float], bool]) -> None:
        """Wait until a metric is so."""
        async with asyncio.timeout(30):
            while not is_so((await self.sidecar.metrics())[f"datafile_sidecar_{name}"]):
                await asyncio.sleep(0.02)

    async def until_fetched_twice(self) -> None:
        """Wait until the sidecar has asked upstream two more times, whatever it was answered."""
        wanted = await self._fetches() + 2
        async with asyncio.timeout(30):
            while await self._fetches() < wanted:
                await asyncio.sleep(0.02)

    async def _fetches(self) -> float:
        metrics = await self.sidecar.metrics()
        return sum(count for name, count in metrics.items() if name.startswith("datafile_sidecar_fetches_total{"))

    async def publish(self, revision: int, *, announced: bool) -> None:
        """Let Optimizely serve a new revision, and wait until it is on the volume. No poll comes before its webhook."""
        if announced:
            await self.post(revision)
        self.optimizely.put(KEY, datafiles.minimal(revision))
        await self.until(f'revision{{sdk_key="{KEY}"}}', lambda value: value == revision)


@asynccontextmanager
async def stage(directory: Path, *, ready: bool = True, **settings: Any) -> AsyncIterator[Stage]:
    """A sidecar that has published revision 43, unless the settings or `ready` say something else."""
    async with Simulator({KEY: datafiles.minimal(43)}, secret=None) as optimizely, ClientSession() as browser:
        defaults = {
            "sdk_keys": KEY,
            "webhook_secrets": SECRET.decode(),
            "url_template": optimizely.template,
            "poll_interval_s": 1,
        }
        async with RunningSidecar(directory, ready=ready, **defaults | settings) as sidecar:
            yield Stage(sidecar, optimizely, browser)


@asynccontextmanager
async def worker(stage: Stage, revision: int, **fields: object) -> AsyncIterator[None]:
    """A process of the app that decides by this revision, as far as anybody can tell."""
    path = stage.sidecar.directory / "sidecar.sock"
    async with asyncio.timeout(30):
        while not path.exists():
            await asyncio.sleep(0.02)
    _, writer = await asyncio.open_unix_connection(path)
    key = stage.sidecar.environment["DATAFILE_SDK_KEYS"]
    message = {"v": 1, "id": "a1b2c3d4", "sdk_key": key, "pid": 42, "host": "app", "revision": revision}
    writer.write(json.dumps(message | fields).encode() + b"\n")
    await stage.until(f'workers{{sdk_key="{key}"}}', lambda value: value == 1)
    try:
        yield
    finally:
        writer.close()


async def healthy(stage: Stage) -> None:
    """Webhooks come, polls find nothing new."""
    await stage.publish(44, announced=True)
    await stage.until_fetched_twice()


async def never_a_webhook(stage: Stage) -> None:
    """The key's environment sends no webhooks; polls find one revision after the other."""
    for revision in (44, 45, 46):
        await stage.publish(revision, announced=False)


async def outage(stage: Stage) -> None:
    """Upstream answers 500."""

    async def fail(_: web.Request) -> web.StreamResponse | None:
        return web.Response(status=500)

    stage.optimizely.answer = fail
    await stage.sidecar.logged("fetch.failed")


async def target_not_reached(stage: Stage) -> None:
    """A revision is announced that upstream does not serve."""
    await stage.post(44)
    await stage.until(f'target_revision{{sdk_key="{KEY}"}}', lambda value: value == 44)
    await stage.until_fetched_twice()


async def webhooks_missed(stage: Stage) -> None:
    """Webhooks came once, and come no more."""
    for revision in (45, 46, 47):
        await stage.publish(revision, announced=False)
    await stage.until(f'missed_webhooks_total{{sdk_key="{KEY}"}}', lambda value: value == 3)


async def signatures_rejected(stage: Stage) -> None:
    """All webhooks are signed by a secret that is not ours."""
    for revision in range(44, 49):
        await stage.post(revision, b"another")
    await stage.until_fetched_twice()


async def publish_failing(stage: Stage) -> None:
    """Nothing can be written beside the datafile: something is in the way."""
    (stage.sidecar.directory / f".datafile-sidecar.{KEY}.json.tmp").mkdir()
    stage.optimizely.put(KEY, datafiles.minimal(44))
    await stage.until(f'publish_failures_total{{sdk_key="{KEY}"}}', lambda value: value >= 2)


async def as_it_is(stage: Stage) -> None:
    """Polls go on."""
    await stage.until_fetched_twice()


async def nothing_new(_: Stage) -> None:
    """Time passes, in which nothing needs to happen."""
    await asyncio.sleep(2.5)


State = Callable[[Stage], Awaitable[None]]
