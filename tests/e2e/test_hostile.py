"""Strangers at the webhook port: the silent, the slow, the many and the loud. Whoever has a real webhook gets it through."""

import asyncio
import itertools
import json
import math
import re
import resource
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, closing, contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from datafile_sidecar.cli.simulator import Simulator, webhook_body
from datafile_sidecar.core.webhook import signature
from tests.datafiles import minimal
from tests.running import RunningSidecar
from tests.stopwatch import Stopwatch

KEY, SECRET = "KEY1", "test-secret-1"
WEBHOOK_PATH = "/webhooks/optimizely"
PATH = b"POST /webhooks/optimizely HTTP/1.1\r\nHost: x\r\n"
BAD = b"X-Hub-Signature: sha1=" + b"0" * 40 + b"\r\n"
SLOW = {
    "silent": (b"", b""),
    "a line of the head": (PATH, b""),
    "the head, byte by byte": (PATH, b"X-Slow: " + b"a" * 1000),
    "a head that does not end": (PATH + (b"X-Long: " + b"a" * 7000 + b"\r\n") * 4, b"X-Slow: " + b"a" * 1000),
    "3 bytes of the body": (PATH + BAD + b"Content-Length: 100\r\n\r\nabc", b""),
    "the body, byte by byte": (PATH + BAD + b"Content-Length: 60000\r\n\r\n" + b"x" * 50_000, b"x" * 1000),
    "chunks, byte by byte": (PATH + BAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n" * 1000),
}
LOUD = {
    "bad signatures": PATH + BAD + b"Content-Length: 200\r\n\r\n" + b"x" * 200,
    "too large": PATH + b"Content-Length: 99999999\r\n\r\n" + b"x" * 60_000,
    "many at once": (PATH + BAD + b"Content-Length: 2\r\n\r\n{}") * 100,
    "long heads": PATH + (b"X-Long: " + b"a" * 7000 + b"\r\n") * 100,
    "many headers": PATH + b"".join(b"X-%d: a\r\n" % number for number in range(3000)),
    "odd methods": b"BREW /%ff/../%00 HTTP/1.1\r\nHost: x\r\n\r\n",
    "odd paths": b"GET /" + b"a/" * 2000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "noise": bytes(range(256)) * 16,
}
HUGE_LINES = b"".join(b"X-%03d: %s\r\n" % (number, b"a" * 7900) for number in range(118))
CHUNKED = PATH + b"Transfer-Encoding: chunked\r\n\r\n"
LIVEZ = b"GET /livez HTTP/1.1\r\nHost: x\r\n"
HUGE = {
    "trailers": (b"", CHUNKED + b"0\r\n" + HUGE_LINES),
    "one trailer": (b"", CHUNKED + b"0\r\nX: " + b"a" * 900_000),
    "chunk extension": (b"", CHUNKED + b"5;x=" + b"a" * 900_000),
    "tiny chunks": (b"", CHUNKED + b"1\r\nx\r\n" * 150_000),
    "second head": (b"", PATH + b"Content-Length: 5\r\n\r\nabcde" + PATH + HUGE_LINES),
    "head and body": (b"", PATH + HUGE_LINES[:30_000] + b"\r\nContent-Length: 65536\r\n\r\n" + b"x" * 65_000),
    "second head, admin port": (LIVEZ + b"\r\n", LIVEZ + HUGE_LINES),
    "body, admin port": (b"", LIVEZ + b"Content-Length: 900000\r\n\r\n" + b"x" * 899_999),
}


@dataclass
class Attack:
    """So many slow clients, each of which may come back a second after it was dropped, and so many loud ones."""

    address: tuple[str, int]
    slow: int
    loud: int
    pid: int
    """The process that is attacked."""
    lives: list[float] = field(default_factory=list)
    """How many seconds each connection of a slow client was left open, not counting the machine's load."""
    answers: Counter[bytes] = field(default_factory=Counter)

    @asynccontextmanager
    async def going_on(self, *, returning: bool) -> AsyncIterator[None]:
        """As long as the context; then each slow connection is waited for that is still open."""
        self._returning, self._shouting = returning, True
        silent = itertools.islice(itertools.cycle(SLOW.values()), self.slow)
        loud = itertools.islice(itertools.cycle(LOUD.values()), self.loud)
        crowd = [asyncio.create_task(self._bore(*sent)) for sent in silent]
        noise = [asyncio.create_task(self._shout(sent)) for sent in loud]
        try:
            yield
            self._returning = self._shouting = False
            async with asyncio.timeout(60):
                await asyncio.gather(*crowd, *noise)
        finally:
            for one in (*noise, *crowd):
                one.cancel()
            await asyncio.gather(*noise, *crowd, return_exceptions=True)

    async def _bore(self, first: bytes, then: bytes) -> None:
        while True:
            with suppress(OSError):
                reader, writer = await asyncio.open_connection(*self.address)
                stopwatch = Stopwatch(self.pid)
                drip = asyncio.create_task(self._drip(writer, first, then))
                try:
                    await reader.read()
                finally:
                    self.lives.append(stopwatch.seconds())
                    drip.cancel()
                    writer.transport.abort()
            if not self._returning:
                return
            await asyncio.sleep(1)

    async def _drip(self, writer: asyncio.StreamWriter, first: bytes, then: bytes) -> None:
        with suppress(OSError):
            writer.write(first)
            for byte in then:
                await asyncio.sleep(1)
                writer.write(bytes([byte]))
                await writer.drain()

    async def _shout(self, sent: bytes) -> None:
        while self._shouting:
            with suppress(OSError):
                reader, writer = await asyncio.open_connection(*self.address)
                try:
                    writer.write(sent)
                    self.answers[(await reader.read(12))[9:]] += 1
                finally:
                    writer.transport.abort()
            await asyncio.sleep(0)


@dataclass
class Stage:
    """Optimizely, and a sidecar that strangers have found."""

    optimizely: Simulator
    sidecar: RunningSidecar

    @property
    def address(self) -> tuple[str, int]:
        """Of the webhook port."""
        url = urlsplit(self.sidecar.webhook_url)
        assert url.hostname
        assert url.port
        return url.hostname, url.port

    def used(self, what: str) -> float:
        """`VmRSS` or `VmHWM` of the sidecar, in MiB."""
        match = re.search(rf"{what}:\s+(\d+)", Path(f"/proc/{self.sidecar.pid}/status").read_text())
        assert match
        return int(match[1]) / 1024

    async def dropped(self) -> float:
        """How many connections were dropped at the webhook port."""
        return (await self.sidecar.metrics()).get('datafile_sidecar_dropped_connections_total{port="webhook"}', 0)

    async def flip(self, revision: int) -> float:
        """Publish a revision, send its webhook once, and wait for the file; the seconds that it took without the machine's load."""
        stopwatch = Stopwatch(self.sidecar.pid)
        self.optimizely.put(KEY, minimal(revision))
        assert await asyncio.to_thread(self._post, revision) == 202
        path, wanted = self.sidecar.directory / f"{KEY}.json", minimal(revision)
        while path.read_bytes() != wanted:
            assert stopwatch.seconds() < 10
            await asyncio.sleep(0.005)
        return stopwatch.seconds()

    def _post(self, revision: int) -> int:
        """Send a webhook; the answer. In a thread: a sender on the attackers' loop would wait for them, and look slow itself."""
        body = webhook_body(revision, cdn_url=self.optimizely.template.format(sdk_key=KEY))
        with closing(HTTPConnection(*self.address, timeout=10)) as connection:
            connection.request("POST", WEBHOOK_PATH, body, {"X-Hub-Signature": signature(body, SECRET.encode())})
            return connection.getresponse().status

    async def holds(self, revision: int) -> None:
        """Wait for the file."""
        path, wanted = self.sidecar.directory / f"{KEY}.json", minimal(revision)
        async with asyncio.timeout(10):
            while path.read_bytes() != wanted:
                await asyncio.sleep(0.005)


@contextmanager
def descriptors(count: int) -> Iterator[None]:
    """What is started meanwhile may have so many files open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture(name="stage")
async def staged(tmp_path: Path) -> AsyncIterator[Stage]:
    async with opened(tmp_path, 256) as stage:
        yield stage


@asynccontextmanager
async def opened(tmp_path: Path, open_files: int, poll_interval_s: int = 0) -> AsyncIterator[Stage]:
    """Start all of it; the sidecar may have so many files open."""
    async with Simulator({KEY: minimal(1)}, secret=SECRET.encode()) as optimizely:
        settings: dict[str, Any] = {"sdk_keys": KEY, "webhook_secrets": SECRET, "url_template": optimizely.template}
        sidecar = RunningSidecar(tmp_path / "volume", poll_interval_s=poll_interval_s, **settings)
        async with AsyncExitStack() as stack:
            with descriptors(open_files):
                await stack.enter_async_context(sidecar)
            optimizely.webhook_urls = [sidecar.webhook_url]
            yield Stage(optimizely, sidecar)


async def besieged(
    stage: Stage, attack: Attack, seconds: float, *, returning: bool, connections: int = 0
) -> list[float]:
    """Flip every second while the attack goes on; how long each flip took, infinite where its webhook got no answer.

    It goes on for so many seconds, and until so many connections were answered and so many dropped.
    """
    took, until = [], time.monotonic() + seconds
    async with attack.going_on(returning=returning):
        await asyncio.sleep(0.3)
        for revision in itertools.count(2):
            try:
                took.append(await stage.flip(revision))
            except (OSError, HTTPException):
                took.append(math.inf)
            assert await stage.sidecar.status()
            if time.monotonic() > until and min(attack.answers.total(), await stage.dropped()) >= connections:
                break
            await asyncio.sleep(1)
    return took


async def test_a_few(stage: Stage) -> None:
    """While 100 slow clients come back again and again and 8 are loud, each webhook is on disk within two seconds."""
    attack, before = Attack(stage.address, slow=100, loud=8, pid=stage.sidecar.pid), stage.used("VmRSS")
    took = await besieged(stage, attack, 4, returning=True, connections=101)
    assert max(took) < 2
    assert max(attack.lives) < 12
    assert attack.answers.total() > 100
    assert stage.used("VmHWM") - before < 60
    assert len(stage.sidecar.output) < 20_000
    assert await stage.dropped() > 100
    assert [line["port"] for line in stage.sidecar.logs if line["event"] == "connection.dropped"] == ["webhook"]
    assert [line for line in stage.sidecar.logs if line["level"] == "error"] == []


@pytest.mark.parametrize("kind", HUGE)
async def test_endless_requests(tmp_path: Path, kind: str) -> None:
    """While 200 clients each send a megabyte that belongs to one request, memory stays, and webhooks are answered soon."""
    async with opened(tmp_path, 1024) as stage:
        await stage.flip(2)
        before, first, then = stage.used("VmRSS"), *HUGE[kind]
        url = urlsplit(stage.sidecar.admin_url if kind.endswith("admin port") else stage.sidecar.webhook_url)
        clients = [asyncio.create_task(_send(url.hostname, url.port, first, then)) for _ in range(200)]
        took = []
        for revision in range(3, 6):
            began = time.monotonic()
            assert await stage.optimizely.publish(KEY, minimal(revision)) == 202
            took.append(time.monotonic() - began)
            await stage.holds(revision)
        await asyncio.gather(*clients)
        assert max(took) < 3  # half a second where the machine is not busy; the clients run in this process
        assert stage.used("VmHWM") - before < 24
        async with asyncio.timeout(10):
            while stage.used("VmRSS") - before > 12:
                await asyncio.sleep(0.05)
        assert (await stage.sidecar.status())["ready"]
        assert [line for line in stage.sidecar.logs if line["level"] == "error"] == []


async def _send(host: str | None, port: int | None, first: bytes, then: bytes) -> None:
    """Send one request and wait for its answer, then send another, which is huge, until it is answered or cut off."""
    with suppress(OSError, asyncio.IncompleteReadError):
        reader, writer = await asyncio.open_connection(host, port)
        try:
            if first:
                writer.write(first)
                await reader.readuntil(b"ok\n")
            for begin in range(0, len(then), 65536):
                writer.write(then[begin : begin + 65536])
                await writer.drain()
            async with asyncio.timeout(1):
                await reader.read(1)
        except TimeoutError:
            pass
        finally:
            writer.transport.abort()


async def test_few_open_files(tmp_path: Path) -> None:
    """With 256 files, 250 workers and 200 clients, it still fetches, publishes, answers, and fills no log."""
    # A poll finds the third revision, and should not be faster than the webhook of the second.
    async with opened(tmp_path, 256, poll_interval_s=5) as stage, AsyncExitStack() as stack:
        path = str(stage.sidecar.directory / "sidecar.sock")
        writers = [(await asyncio.open_unix_connection(path))[1] for _ in range(250)]
        writers += [(await asyncio.open_connection(*stage.address))[1] for _ in range(200)]
        for number, writer in enumerate(writers):
            stack.callback(writer.transport.abort)
            worker = {"v": 1, "id": f"{number:08x}", "sdk_key": KEY, "pid": number, "host": "app", "revision": 1}
            writer.write(json.dumps(worker).encode() + b"\n")
        assert await stage.flip(2) < 2
        stage.optimizely.put(KEY, minimal(3))
        await stage.holds(3)
        assert 0 < len((await stage.sidecar.status())["keys"][KEY]["workers"]) < 250
        assert len(stage.sidecar.output) < 20_000
        assert [line for line in stage.sidecar.logs if line["level"] == "error"] == []


async def test_no_open_files(tmp_path: Path) -> None:
    """When not one more connection can be accepted, one line says so; when there are files again, it answers."""
    async with opened(tmp_path, 256) as stage:
        used = len(list(Path(f"/proc/{stage.sidecar.pid}/fd").iterdir()))
        limits = resource.prlimit(stage.sidecar.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(stage.sidecar.pid, resource.RLIMIT_NOFILE, (0, limits[1]))
        assert used < 48
        writers = [(await asyncio.open_connection(*stage.address))[1] for _ in range(4)]
        await stage.sidecar.logged("resources.exhausted", reason="Too many open files")
        await asyncio.sleep(1.5)  # asyncio tries again after a second
        resource.prlimit(stage.sidecar.pid, resource.RLIMIT_NOFILE, limits)
        assert await stage.flip(2) < 3
        assert [line["event"] for line in stage.sidecar.logs].count("resources.exhausted") == 1
        assert len(stage.sidecar.output) < 5_000
        for writer in writers:
            writer.transport.abort()


@pytest.mark.system
@pytest.mark.timeout(150)
@pytest.mark.parametrize("returning", [False, True])
async def test_a_siege(stage: Stage, returning: bool) -> None:
    """600 slow clients and 8 loud ones for up to a minute: every webhook is on disk within a second.

    Where all that are thrown out come back at once, for ever, there is no telling them from a webhook before it is whole: nine in
    ten arrive, in a few seconds, and polling heals the rest.
    """
    attack, before = Attack(stage.address, slow=600, loud=8, pid=stage.sidecar.pid), stage.used("VmRSS")
    took = await besieged(stage, attack, 30 if returning else 60, returning=returning)
    grown, log = stage.used("VmHWM") - before, len(stage.sidecar.output)
    arrived = [seconds for seconds in took if seconds < math.inf]
    print(f"\n{len(arrived)} of {len(took)} webhooks arrived, the slowest on disk after {max(arrived):.2f} s")
    print(f"{len(attack.lives)} slow connections, the longest open for {max(attack.lives):.1f} s")
    print(f"answers to floods: {dict(attack.answers)}; memory + {grown:.0f} MiB, log {log / 1e6:.2f} MB")
    assert len(arrived) >= (0.9 if returning else 1) * len(took)
    assert max(arrived) < (5 if returning else 1)
    assert max(attack.lives) < 20
    assert grown < 60
    assert log < 3_000_000
    assert [line for line in stage.sidecar.logs if line["level"] == "error"] == []
