"""Several pods at once, for tests and benchmarks: sidecars on a bus, and the stand-in for Optimizely that they share."""

import asyncio
import json
import time
from collections.abc import Iterable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Self

from aiohttp import ClientSession, TCPConnector

from datafile_sidecar.cli.simulator import Simulator, webhook_body
from datafile_sidecar.core.webhook import signature
from tests.datafiles import minimal
from tests.running import RunningSidecar

KEY, SECRET = "KEY1", "test-secret-1"


class Fleet:
    """Sidecars that share an upstream: an async context manager. Settings for one come before those for all."""

    def __init__(self, directory: Path, pods: Iterable[dict[str, object]], **settings: object) -> None:
        self._directory = directory
        self._settings = [settings | own for own in pods]
        self._stack = AsyncExitStack()
        self.pods: list[RunningSidecar] = []

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            self.session = await stack.enter_async_context(ClientSession(connector=TCPConnector(force_close=True)))
            self.optimizely = await stack.enter_async_context(Simulator({KEY: minimal(1)}, secret=SECRET.encode()))
            self.pods = [self.pod(number, **settings) for number, settings in enumerate(self._settings)]
            for pod in self.pods:
                await stack.enter_async_context(pod)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._stack.aclose()

    def pod(self, number: int, **settings: object) -> RunningSidecar:
        """One sidecar of this fleet, not started yet."""
        common: dict[str, object] = {
            "sdk_keys": KEY,
            "webhook_secrets": SECRET,
            "url_template": self.optimizely.template,
            "poll_interval_s": 3600,
        }
        return RunningSidecar(self._directory / f"pod-{number}", **(common | settings))  # type: ignore[arg-type]

    async def replace(self, number: int) -> None:
        """Kill a pod, and start it again on the same volume; it is ready when this returns."""
        await self.pods[number].kill()
        self.pods[number] = pod = self.pod(number, **self._settings[number])
        await self._stack.enter_async_context(pod)

    async def until_connected(self, *pods: RunningSidecar, state: str = "connected", within_s: float = 12) -> None:
        """Wait until these pods, or all, say that of their bus."""
        async with asyncio.timeout(within_s):
            for pod in pods or self.pods:
                while (await pod.status())["bus"]["state"] != state:
                    await asyncio.sleep(0.02)

    async def until_quiet(self) -> None:
        """Wait until all have a bus, and nobody has asked upstream for a while: each has had its first look."""
        await self.until_connected()
        asked = -1
        while asked != (asked := len(self.optimizely.requests)):
            await asyncio.sleep(1)

    async def until_published(self, revision: int, *pods: RunningSidecar, within_s: float = 10) -> list[float]:
        """Wait until readers of these volumes, or of all, see this revision; how many seconds each took."""
        begun, waiting, took = time.monotonic(), list(pods or self.pods), []
        async with asyncio.timeout(within_s):
            while waiting:
                for pod in [pod for pod in waiting if revision_of(pod) == revision]:
                    waiting.remove(pod)
                    took.append(time.monotonic() - begun)
                await asyncio.sleep(0.002)
        return took

    async def flip(
        self,
        revision: int,
        to: RunningSidecar,
        *,
        relayed_to: Iterable[RunningSidecar] = (),
        content: bytes | None = None,
    ) -> None:
        """Publish a revision and post its webhook to one pod, and perhaps to others as that pod would relay it."""
        self.optimizely.put(KEY, content or minimal(revision))
        body = webhook_body(
            revision,
            origin_url=f"{self.optimizely.url}/origin/datafiles/{KEY}.json",
            cdn_url=f"{self.optimizely.url}/datafiles/{KEY}.json",
        )
        headers = {"X-Hub-Signature": signature(body, SECRET.encode())}
        for pod, relayed in [(to, {}), *((pod, {"X-Datafile-Relayed": "1"}) for pod in relayed_to)]:
            async with self.session.post(pod.webhook_url, data=body, headers=headers | relayed) as answer:
                # The bus may have been faster than the relay: then the webhook is no news there.
                assert answer.status in ({202, 204} if relayed else {202})

    async def probes(self, pod: RunningSidecar) -> list[int]:
        """The answers of /livez and /readyz, each within 200 ms."""
        answers = []
        for path in ("/livez", "/readyz"):
            async with asyncio.timeout(0.2), self.session.get(f"{pod.admin_url}{path}") as answer:
                answers.append(answer.status)
        return answers

    def full_fetches(self) -> int:
        """How many whole datafiles were fetched."""
        return sum(request.status == 200 for request in self.optimizely.requests)


def revision_of(pod: RunningSidecar) -> int | None:
    """What a reader of its volume sees; fails where that is no whole datafile."""
    try:
        return int(json.loads((pod.directory / f"{KEY}.json").read_bytes())["revision"])
    except FileNotFoundError:
        return None
