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
from tests.stopwatch import Stopwatch

_SHOWN_CHARS = 2000
KEY, SECRET = "KEY1", "test-secret-1"


class Fleet:
    """Sidecars that share an upstream: an async context manager. Settings for one come before those for all."""

    def __init__(self, directory: Path, pods: Iterable[dict[str, object]], **settings: object) -> None:
        self._directory = directory
        self._settings = [settings | own for own in pods]
        self._stack = AsyncExitStack()
        self.pods: list[RunningSidecar] = []
        self.python_path: Path | None = None
        """Where sidecars of another version are imported from."""

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
        pod = RunningSidecar(self._directory / f"pod-{number}", **(common | settings))  # type: ignore[arg-type]
        if self.python_path is not None:
            pod.environment["PYTHONPATH"] = str(self.python_path)
        return pod

    async def replace(self, number: int) -> None:
        """Kill a pod, and start it again on the same volume; it is ready when this returns."""
        await self.pods[number].kill()
        self.pods[number] = pod = self.pod(number, **self._settings[number])
        await self._stack.enter_async_context(pod)

    async def until_connected(self, *pods: RunningSidecar, state: str = "connected", within_s: float = 12) -> None:
        """Wait until these pods, or all, say that of their bus. Fails where it takes longer, not counting the machine's load."""
        stopwatch = self.stopwatch()
        for pod in pods or self.pods:
            while (await pod.status())["bus"]["state"] != state:
                assert stopwatch.seconds() < within_s
                await asyncio.sleep(0.02)

    async def until_quiet(self) -> None:
        """Wait until all have a bus, and no pod has asked upstream for a second, in which the machine's load is not counted."""
        await self.until_connected()
        asked, stopwatch = -1, self.stopwatch()
        while asked != len(self.optimizely.requests) or stopwatch.seconds() < 1:
            if asked != len(self.optimizely.requests):
                asked, stopwatch = len(self.optimizely.requests), self.stopwatch()
            await asyncio.sleep(0.05)

    async def until_checked(self, *pods: RunningSidecar, within_s: float) -> None:
        """Wait until these pods know of a check that was made from now on. Fails where that takes longer."""
        name = f'datafile_sidecar_checked_timestamp_seconds{{sdk_key="{KEY}"}}'
        since, stopwatch = time.time(), self.stopwatch()
        for pod in pods:
            while (await pod.metrics())[name] <= since:
                assert stopwatch.seconds() < within_s, f"{pod.directory.name} has no new check"
                await asyncio.sleep(0.02)

    async def polls(self, count: int) -> tuple[list[float], float]:
        """Wait for so many requests to upstream; after how many seconds each came, and the mean time between two.

        The machine's load is not counted in the first, and is counted in the second.
        """
        self.optimizely.requests.clear()
        stopwatch, took = self.stopwatch(), list[float]()
        while len(took) < count:
            if len(self.optimizely.requests) > len(took):
                took.append(stopwatch.seconds())
            assert stopwatch.seconds() < 5 * count, f"only {len(took)} requests"
            await asyncio.sleep(0.01)
        asked = [request.at for request in self.optimizely.requests[:count]]
        return took, (asked[-1] - asked[0]) / (count - 1)

    def stopwatch(self) -> Stopwatch:
        """Start to measure what the pods do."""
        return Stopwatch(*(pod.pid for pod in self.pods))

    async def until_published(self, revision: int, *pods: RunningSidecar, within_s: float = 10) -> list[float]:
        """Wait until readers of these volumes, or of all, see this revision; how many seconds each took.

        Fails where that is more than `within_s`. The time for which the machine's load held the pods up is not counted.
        """
        stopwatch, waiting, took = self.stopwatch(), list(pods or self.pods), []
        while waiting:
            if stopwatch.seconds() >= within_s:
                said = "".join(f"\n{pod.directory.name}:\n{pod.output[-_SHOWN_CHARS:]}" for pod in waiting)
                raise AssertionError(f"no revision {revision} within {within_s} s; what these pods logged last:{said}")
            for pod in [pod for pod in waiting if revision_of(pod) == revision]:
                waiting.remove(pod)
                took.append(stopwatch.seconds())
            await asyncio.sleep(0.005)
        return took

    async def flip(
        self,
        revision: int,
        to: RunningSidecar,
        *,
        relayed_to: Iterable[RunningSidecar] = (),
        content: bytes | None = None,
        is_served: bool = True,
    ) -> None:
        """Publish a revision and post its webhook to one pod, and perhaps to others as that pod would relay it.

        With `is_served` False, the test lets the CDN serve it later.
        """
        if is_served:
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
                assert answer.status in ({200, 202} if relayed else {202})

    async def probes(self, pod: RunningSidecar) -> list[int]:
        """The answers of /livez and /readyz, each within 200 ms, in which the machine's load is not counted."""
        answers = []
        for path in ("/livez", "/readyz"):
            stopwatch = Stopwatch(pod.pid)
            async with self.session.get(f"{pod.admin_url}{path}") as answer:
                answers.append(answer.status)
            assert stopwatch.seconds() < 0.2
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
