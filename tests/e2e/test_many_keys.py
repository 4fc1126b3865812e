"""One sidecar with hundreds of SDK keys, or with many large datafiles: no key waits for all others, and memory is bounded."""

import asyncio
import time
from pathlib import Path

import pytest
from aiohttp import ClientSession, web

from datafile_sidecar.cli.simulator import Simulator, webhook_body
from datafile_sidecar.core.webhook import signature
from tests.broker import Broker
from tests.datafiles import minimal, realistic
from tests.running import RunningSidecar
from tests.stopwatch import Stopwatch

SECRET = b"test-secret-1"
WITHIN_S = 30
MAX_MIB = {False: 100, True: 110}
"""Of resident memory, without a bus and with one: its client takes 8 MiB, and datafiles are compressed for it."""
MAX_STALL_S = 0.05
MAX_CONNECTIONS = 9


def keys(count: int) -> list[str]:
    """So many SDK keys."""
    return [f"KEY{number:03}" for number in range(count)]


def sidecar(
    directory: Path, optimizely: Simulator, sdk_keys: list[str], *, ready: bool = True, bus_url: str = ""
) -> RunningSidecar:
    """A sidecar with these keys that polls rarely."""
    return RunningSidecar(
        directory,
        ready=ready,
        sdk_keys=",".join(sdk_keys),
        url_template=optimizely.template,
        webhook_secrets=SECRET.decode(),
        poll_interval_s=3600,
        bus_url=bus_url,
    )


def peak_mib(running: RunningSidecar) -> float:
    """The most memory that it ever had."""
    status = Path(f"/proc/{running.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024


async def until_published(running: RunningSidecar, count: int) -> None:
    """Wait until so many datafiles were published."""
    async with asyncio.timeout(WITHIN_S):
        while sum(line["event"] == "datafile.published" for line in running.logs) < count:
            await asyncio.sleep(0.02)


async def test_an_announced_key_does_not_wait_for_hinted_ones(tmp_path: Path) -> None:
    """A webhook that may concern 60 keys makes all of them look, and upstream hangs: one that is announced is there at once."""
    sdk_keys, free = keys(60), asyncio.Event()
    late = sdk_keys[-1]

    async def answer(request: web.Request) -> None:
        if not request.path.endswith(f"/{late}.json"):
            await free.wait()

    async with Simulator({key: minimal(43, key) for key in sdk_keys}, secret=SECRET) as optimizely:
        async with sidecar(tmp_path, optimizely, sdk_keys) as running, ClientSession() as session:
            optimizely.requests.clear()
            optimizely.answer = answer
            hint = webhook_body(9, project_id=1234, environment=None)
            async with session.post(running.webhook_url, data=hint, headers=signed(hint)) as taken:
                assert taken.status == 202
            async with asyncio.timeout(WITHIN_S):
                while not optimizely.requests:
                    await asyncio.sleep(0.01)
            optimizely.webhook_urls = [running.webhook_url]
            await optimizely.publish(late, minimal(44, late))
            published = await running.logged("datafile.published", sdk_key=late, revision=44)
            asked = {request.sdk_key for request in optimizely.requests}
            free.set()
    assert len(asked) < 30
    assert published["propagation_s"] < 5


@pytest.mark.system
async def test_a_slow_upstream_that_answers_is_no_failure(tmp_path: Path) -> None:
    """A hundred keys start while each answer takes a second: they take turns, and none is said to be too late."""
    sdk_keys = keys(100)

    async def answer(_: web.Request) -> None:
        await asyncio.sleep(1)

    async with Simulator({key: minimal(43, key) for key in sdk_keys}, secret=SECRET) as optimizely:
        optimizely.answer = answer
        async with sidecar(tmp_path, optimizely, sdk_keys, ready=False) as running:
            await until_published(running, len(sdk_keys))
            assert [line for line in running.logs if line["event"] == "fetch.failed"] == []
    assert len(optimizely.requests) == len(sdk_keys)


async def test_300_keys_start_with_a_bus(tmp_path: Path) -> None:
    """Each key asks the bus, and is published and shared: they are as many as without a bus, and hold as few connections."""
    sdk_keys = keys(300)
    async with Simulator({key: minimal(43, key) for key in sdk_keys}, secret=SECRET) as optimizely, Broker() as broker:
        async with sidecar(tmp_path, optimizely, sdk_keys, bus_url=broker.url) as running:
            await until_published(running, len(sdk_keys))
            ours = broker.client()
            async with asyncio.timeout(WITHIN_S):
                while await ours.dbsize() < len(sdk_keys):
                    await asyncio.sleep(0.1)
            assert [line for line in running.logs if line["event"] in {"fetch.failed", "bus.disconnected"}] == []
            assert len(await ours.client_list()) - 1 <= MAX_CONNECTIONS
    assert len(optimizely.requests) == len(sdk_keys)


@pytest.mark.system
@pytest.mark.parametrize("path", ["/metrics", "/status"])
async def test_with_300_keys_nothing_holds_up_the_loop(tmp_path: Path, path: str) -> None:
    """While Prometheus or a person asks about 300 keys, probes and webhooks are answered within 50 ms."""
    sdk_keys = [f"{key}-as-long-as-real-ones" for key in keys(300)]
    async with Simulator({key: minimal(43, key) for key in sdk_keys}, secret=SECRET) as optimizely:
        async with sidecar(tmp_path, optimizely, sdk_keys) as running, ClientSession() as session:
            stalls = [await longest_probe(running, session, path) for _ in range(7)]
    print(f"\n{path}: longest probes {', '.join(f'{1000 * stall:.0f}' for stall in stalls)} ms")
    assert sorted(stalls)[len(stalls) // 2] < MAX_STALL_S


async def longest_probe(running: RunningSidecar, session: ClientSession, path: str) -> float:
    """The longest time that a probe took while this was answered, not counting the machine's load."""

    async def ask() -> None:
        async with session.get(running.admin_url + path) as answer:
            assert answer.status == 200
            await answer.read()

    asked, longest = asyncio.create_task(ask()), 0.0
    while not asked.done():
        stopwatch = Stopwatch(running.pid)
        async with session.get(f"{running.admin_url}/livez") as answer:
            assert answer.status == 200
        longest = max(longest, stopwatch.seconds())
        await asyncio.sleep(0.001)
    await asked
    return longest


@pytest.mark.system
@pytest.mark.parametrize("has_bus", [False, True])
@pytest.mark.parametrize(("count", "kib"), [(100, 1200), (10, 8000)])
async def test_large_datafiles_come_one_by_one(tmp_path: Path, count: int, kib: int, has_bus: bool) -> None:
    """Many large datafiles at a start, at a restart, and when all change at once: within bounds."""
    sdk_keys, peaks = keys(count), list[str]()
    base = {revision: realistic(kib, revision, "KEY---") for revision in (43, 44)}

    def bodies(revision: int) -> dict[str, bytes]:
        return {key: base[revision].replace(b"KEY---", key.encode()) for key in sdk_keys}

    async with Simulator(bodies(43), secret=SECRET) as optimizely, Broker() as broker:
        bus_url = broker.url if has_bus else ""
        for when in ("start", "restart"):
            async with sidecar(tmp_path, optimizely, sdk_keys, ready=False, bus_url=bus_url) as running:
                if has_bus and when == "restart":  # what the pod itself checked before stands for its first poll
                    await running.logged("bus.connected")
                else:
                    await checked(running)
                peaks.append(f"{when}: {peak_mib(running):.0f} MiB")
                assert peak_mib(running) <= MAX_MIB[has_bus], peaks
                if when == "restart":
                    began = time.monotonic()
                    for key, body in bodies(44).items():
                        optimizely.put(key, body)
                    optimizely.webhook_urls = [running.webhook_url]
                    for key in sdk_keys:
                        await optimizely.announce(key, 44)
                    await until_published(running, count)
                    peaks.append(f"all at once: {peak_mib(running):.0f} MiB, {time.monotonic() - began:.1f} s")
                    assert peak_mib(running) <= MAX_MIB[has_bus], peaks
    print("\n" + ", ".join(peaks))


async def checked(running: RunningSidecar) -> None:
    """Wait until upstream has been asked for every key since the start, and what came was dealt with."""
    async with asyncio.timeout(2 * WITHIN_S):
        while True:
            status = await running.status()
            if all((one["checked"] or "") >= status["started"] for one in status["keys"].values()):
                return
            await asyncio.sleep(0.1)


def signed(body: bytes) -> dict[str, str]:
    """The header of a webhook."""
    return {"X-Hub-Signature": signature(body, SECRET)}
