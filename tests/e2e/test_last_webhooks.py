"""Webhooks that come while a sidecar ends: each is delivered once, so one that is accepted must not be lost."""

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientError, ClientSession, TCPConnector

from datafile_sidecar.cli.simulator import Simulator, webhook_body
from datafile_sidecar.core.webhook import signature
from tests.broker import Broker, needs_redis
from tests.datafiles import minimal
from tests.fleet import Fleet, revision_of
from tests.running import RunningSidecar
from tests.sidecar.webhooks.test_peers import Peer, listening, silent
from tests.sidecar.wire import Request, Wire, ok, wire

KEY, SECRET = "KEY1", "test-secret-1"


@dataclass
class Ending:
    """A sidecar that was asked to end while it still fetches revision 43."""

    sidecar: RunningSidecar
    upstream: Wire
    session: ClientSession
    serves: int
    began: float

    async def post(self, revision: int, secret: str = SECRET, **fields: str) -> int:
        """Announce a revision; the answer."""
        url = {"cdn_url": self.upstream.template.format(sdk_key=KEY)} | fields
        body = webhook_body(revision, project_id=1234, **url)  # type: ignore[arg-type]
        headers = {"X-Hub-Signature": signature(body, secret.encode())}
        async with self.session.post(self.sidecar.webhook_url, data=body, headers=headers) as answer:
            return answer.status


@asynccontextmanager
async def ending(directory: Path, *, takes_s: float, **settings: object) -> AsyncIterator[Ending]:
    """Run a sidecar whose upstream takes its time, announce 43, and ask it to end; it must have ended in time."""

    async def answer(_: Request, writer: asyncio.StreamWriter) -> None:
        if stage.serves > 42:
            await asyncio.sleep(takes_s)
        writer.write(ok(minimal(stage.serves)))
        await writer.drain()

    async with wire(answer) as upstream, ClientSession(connector=TCPConnector(force_close=True)) as session:
        settings = {"poll_interval_s": 3600, "url_template": upstream.template, "webhook_secrets": SECRET, **settings}
        sidecar = RunningSidecar(directory, sdk_keys=KEY, **settings)  # type: ignore[arg-type]
        stage = Ending(sidecar, upstream, session, 42, 0)
        async with sidecar:
            stage.serves = 43
            assert await stage.post(43) == 202
            stage.began = time.monotonic()
            os.kill(sidecar.pid, signal.SIGTERM)
            await sidecar.logged("sidecar.stopping")
            yield stage
            assert await sidecar.ended() == 0
            assert time.monotonic() - stage.began < 2


def on_volume(sidecar: RunningSidecar) -> int:
    return int(json.loads((sidecar.directory / f"{KEY}.json").read_bytes())["revision"])


async def test_what_can_still_be_published_is_accepted(tmp_path: Path) -> None:
    """Without other pods, a webhook that comes while the sidecar ends is answered once its revision is on the volume."""
    async with ending(tmp_path, takes_s=0.2) as stage:
        stage.serves = 44
        assert await stage.post(44) == 202
        assert on_volume(stage.sidecar) == 44


async def test_what_is_lost_is_not_accepted(tmp_path: Path) -> None:
    """Upstream hangs and there is no other pod: 503, so that the sender knows; a forgery learns nothing of the end."""
    async with ending(tmp_path, takes_s=60) as stage:
        answers = await asyncio.gather(
            stage.post(44), stage.post(45, "wrong"), stage.post(43), stage.post(46, cdn_url="", environment="Staging")
        )
        assert list(answers) == [503, 401, 200, 503]
        assert on_volume(stage.sidecar) == 42
        assert await stage.sidecar.ended() == 0
        await stage.sidecar.logged("webhook.rejected", more={"stopping": 2})


@pytest.mark.parametrize("is_ours", [True, False], ids=["our project", "another project"])
async def test_what_a_peer_has_is_accepted(tmp_path: Path, is_ours: bool) -> None:
    """A peer that lives has got what is answered 2xx, though upstream and another peer hang."""
    living = Peer("127.0.0.2")
    fields = {} if is_ours else {"cdn_url": "", "project_id": "9999"}
    with silent("127.0.0.4") as port:
        async with listening(living):
            peers = f"127.0.0.2:{living.port},127.0.0.4:{port}"
            async with ending(tmp_path, takes_s=60, peers=peers) as stage:
                body = webhook_body(44, **({"project_id": 1234, "cdn_url": KEY} | fields))  # type: ignore[arg-type]
                headers = {"X-Hub-Signature": signature(body, SECRET.encode())}
                async with stage.session.post(stage.sidecar.webhook_url, data=body, headers=headers) as answer:
                    assert answer.status == (202 if is_ours else 200)
                assert body in [got for got, _ in living.got]


async def test_what_no_peer_has_is_not_accepted(tmp_path: Path) -> None:
    """Where every peer hangs, even what means nothing here is answered 503: it may mean something to others."""
    with silent("127.0.0.4") as port:
        async with ending(tmp_path, takes_s=60, peers=f"127.0.0.4:{port}") as stage:
            answers = await asyncio.gather(stage.post(44), stage.post(7, cdn_url="http://x/datafiles/THEIRS.json"))
    assert list(answers) == [503, 503]


@needs_redis
async def test_what_the_bus_has_is_accepted(tmp_path: Path) -> None:
    """With a bus, what is answered 202 reaches the other pods, though this one is gone and they heard of no webhook."""
    async with Broker() as broker, Fleet(tmp_path, [{}, {}], bus_url=broker.url) as fleet:
        await fleet.until_quiet()
        ends, stays = fleet.pods
        fleet.optimizely.cdn_lag_s = fleet.optimizely.origin_lag_s = 0.2
        await fleet.flip(2, ends)
        os.kill(ends.pid, signal.SIGTERM)
        await fleet.flip(3, ends)
        await fleet.until_published(3, stays)
        assert revision_of(ends) == 3
        assert await ends.ended() == 0


async def test_until_the_door_is_shut(tmp_path: Path) -> None:
    """Webhooks come until none is taken any more: each that was answered 202 is on the volume or at the living peer."""
    living = Peer("127.0.0.2")
    accepted: list[int] = []
    with silent("127.0.0.4") as port:
        async with listening(living), Simulator({KEY: minimal(42)}, secret=SECRET.encode()) as optimizely:
            settings: dict[str, Any] = {
                "peers": f"127.0.0.2:{living.port},127.0.0.4:{port}",
                "url_template": optimizely.template,
            }
            async with RunningSidecar(tmp_path, sdk_keys=KEY, webhook_secrets=SECRET, **settings) as sidecar:
                optimizely.webhook_urls = [sidecar.webhook_url]

                async def send(first: int) -> None:
                    for revision in range(first, 100_000, 8):
                        try:
                            if await optimizely.announce(KEY, revision) == 202:
                                accepted.append(revision)
                        except ClientError:
                            return

                assert await optimizely.publish(KEY, minimal(43)) == 202
                os.kill(sidecar.pid, signal.SIGTERM)
                await asyncio.gather(*(send(44 + number) for number in range(8)))
                assert await sidecar.ended() == 0
    passed_on = {json.loads(body)["data"]["revision"] for body, _ in living.got}
    assert accepted
    assert [revision for revision in accepted if revision not in passed_on] == []
