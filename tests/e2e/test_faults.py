"""Whatever upstream answers, the last good datafile stays, everybody can see why, and the next good answer heals it."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiohttp import ClientSession

from datafile_sidecar.cli.simulator import webhook_body
from datafile_sidecar.core.webhook import signature
from tests.datafiles import minimal, realistic
from tests.running import RunningSidecar
from tests.sidecar.wire import Request, Wire, head, ok, wire

KEY = "KEY1"
SECRET = "test-secret-1"
MIB = 1024 * 1024


def changed(**fields: object) -> bytes:
    """A small datafile of a high revision, with some fields changed or, where None, left out."""
    datafile = json.loads(minimal(1_000_000)) | fields
    return json.dumps({name: value for name, value in datafile.items() if value is not None}).encode()


async def endless(_: Request, writer: asyncio.StreamWriter) -> None:
    """A body without a length and without an end."""
    writer.write(head(200))
    for _number in range(200):
        writer.write(bytes(MIB))
        await writer.drain()


async def reset(_: Request, writer: asyncio.StreamWriter) -> None:
    """Half a body, then a broken connection."""
    writer.write(head(200, "Content-Length: 5000") + minimal(1_000_000)[:100])
    await writer.drain()
    writer.transport.abort()


@dataclass(frozen=True)
class Fault:
    """What upstream answers, and the label under which it is counted."""

    name: str
    answer: bytes | Callable[[Request, asyncio.StreamWriter], Awaitable[None]]
    outcome: str
    rests: bool = False


FAULTS = [
    Fault("half-a-gzip", ok(gzip.compress(minimal(1_000_000))[:100], "Content-Encoding: gzip"), "truncated"),
    Fault("gzip-without-checksum", ok(gzip.compress(minimal(1_000_000))[:-8], "Content-Encoding: gzip"), "truncated"),
    Fault("cut-until-close", head(200) + minimal(1_000_000)[:100], "invalid"),
    Fault("broken-connection", reset, "truncated"),
    Fault("cut-where-it-is-json", head(200) + b"{}", "invalid"),
    Fault("empty", ok(b""), "invalid"),
    Fault("blank", ok(b"   \n"), "invalid"),
    Fault("null", ok(b"null"), "invalid"),
    Fault("list", ok(b"[]"), "invalid"),
    Fault("captive-portal", ok(b"<html>Sign in</html>", "Content-Type: application/json"), "invalid"),
    Fault("no-revision", ok(changed(revision=None)), "invalid"),
    Fault("revision-as-number", ok(changed(revision=43)), "invalid"),
    Fault("flags-null", ok(minimal(1_000_000).replace(b'"featureFlags":[]', b'"featureFlags":null')), "invalid"),
    Fault("version-of-tomorrow", ok(changed(version="5")), "invalid"),
    Fault("version-as-number", ok(changed(version=4)), "invalid"),
    Fault("of-another-key", ok(changed(sdkKey="KEY2")), "invalid"),
    Fault("deep", ok(b"[" * 100_000 + b"]" * 100_000), "invalid"),
    Fault("giant-integer", ok(b'{"projectId":' + b"9" * 5000 + b"}"), "invalid"),
    Fault("not-a-number", ok(changed(accountId=1).replace(b'"accountId": 1', b'"accountId": NaN')), "invalid"),
    Fault("byte-order-mark", ok(b"\xef\xbb\xbf" + changed()), "invalid"),
    Fault("utf-16", ok(changed().decode().encode("utf-16")), "invalid"),
    Fault("invalid-utf-8", ok(changed(accountId="?").replace(b"?", b"\xff")), "invalid"),
    Fault("gzip-bomb", ok(gzip.compress(bytes(64 * MIB)), "Content-Encoding: gzip"), "too_large"),
    Fault("forty-megabytes", ok(bytes(40 * MIB)), "too_large"),
    Fault("endless", endless, "too_large"),
    Fault("eight-mib-of-lists", ok(b"[" + b"[]," * (8 * MIB // 3 - 10) + b"[]]"), "invalid"),
    Fault("huge-promise", head(200, "Content-Length: 99999999999"), "too_large"),
    Fault("brotli", ok(changed(), "Content-Encoding: br"), "protocol_error"),
    Fault("header-of-9000-bytes", ok(changed(), "X: " + "x" * 9000), "protocol_error"),
    Fault("two-hundred-headers", ok(changed(), *(f"X-{n}: y" for n in range(200))), "protocol_error"),
    Fault("redirect-to-a-file", head(302, "Location: file:///etc/passwd", "Content-Length: 0"), "redirected"),
    Fault(
        "redirect-elsewhere",
        head(302, "Location: http://127.0.0.1:9/evil/KEY1.json", "Content-Length: 0"),
        "redirected",
    ),
    Fault("server-error", head(500, "Content-Length: 0"), "server_error"),
    Fault("forbidden", head(403, "Content-Length: 0"), "client_error", rests=True),
    Fault("too-many-requests", head(429, "Retry-After: 120", "Content-Length: 0"), "throttled", rests=True),
    Fault("retry-after-nonsense", head(429, "Retry-After: 1e309", "Content-Length: 0"), "client_error", rests=True),
    Fault(
        "retry-after-in-2099",
        head(503, "Retry-After: Wed, 21 Oct 2099 07:28:00 GMT", "Content-Length: 0"),
        "throttled",
        rests=True,
    ),
]


class Home:
    """A running sidecar, and an upstream that answers what a test wants."""

    def __init__(self, sidecar: RunningSidecar, upstream: Wire, session: ClientSession) -> None:
        self.sidecar, self.upstream, self.session = sidecar, upstream, session
        self.revision = 10
        self.file = sidecar.directory / f"{KEY}.json"

    async def announce(self, revision: int) -> int:
        """Post the signed webhook; its answer."""
        url = self.upstream.template.format(sdk_key=KEY)
        body = webhook_body(revision, project_id=1234, origin_url="", cdn_url=url)
        headers = {"X-Hub-Signature": signature(body, SECRET.encode())}
        async with self.session.post(self.sidecar.webhook_url, data=body, headers=headers) as answer:
            return answer.status

    async def probe(self, path: str) -> int:
        """The status of an admin endpoint."""
        async with self.session.get(f"{self.sidecar.admin_url}{path}") as answer:
            return answer.status

    async def count(self, outcome: str) -> float:
        """How many fetches ended so."""
        metrics = await self.sidecar.metrics()
        return metrics[f'datafile_sidecar_fetches_total{{outcome="{outcome}",sdk_key="{KEY}",source="cdn"}}']

    async def until_published(self, revision: int) -> None:
        """Wait until a reader of the volume sees this revision."""
        async with asyncio.timeout(30):
            while json.loads(self.file.read_bytes())["revision"] != str(revision):
                await asyncio.sleep(0.005)


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[Home]:
    async with (
        wire(ok(minimal(10), 'ETag: "10"')) as upstream,
        ClientSession() as session,
        RunningSidecar(
            tmp_path, sdk_keys=KEY, url_template=upstream.template, webhook_secrets=SECRET, poll_interval_s=3600
        ) as sidecar,
    ):
        yield Home(sidecar, upstream, session)


async def suffer(home: Home, fault: Fault) -> None:
    """Let upstream answer wrongly to a webhook's fetch; see that nothing is lost; let it answer well; see that all is well."""
    before, counted, published = home.file.read_bytes(), await home.count(fault.outcome), home.revision
    home.upstream.answer = fault.answer
    home.revision += 1
    assert await home.announce(home.revision) == 202
    async with asyncio.timeout(30):
        while await home.count(fault.outcome) == counted:
            await asyncio.sleep(0.005)
    status = (await home.sidecar.status())["keys"][KEY]
    assert home.file.read_bytes() == before
    assert (status["revision"], status["target_revision"]) == (published, home.revision)
    assert status["last_error"]
    assert home.upstream.origin in status["last_error"]
    assert [await home.probe("/livez"), await home.probe("/readyz")] == [200, 200]
    logged = [line for line in home.sidecar.logs if line["event"] == "fetch.failed"]
    assert (logged[-1]["outcome"], logged[-1]["reason"][:80]) == (fault.outcome, status["last_error"][:80])
    if fault.rests:
        home.revision += 1
    home.upstream.answer = ok(minimal(home.revision), f'ETag: "{home.revision}"', compress=True)
    if fault.rests:
        assert await home.announce(home.revision) == 202
    await home.until_published(home.revision)
    async with asyncio.timeout(30):
        while (await home.sidecar.status())["keys"][KEY]["last_error"] is not None:
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("part", range(3))
async def test_every_wrong_answer_is_survived_and_healed(home: Home, part: int) -> None:
    """The file stays byte for byte, the cause is in log, /status and metrics, and no restart is needed."""
    idle = resident_mib(home.sidecar.pid)
    for fault in FAULTS[part::3]:
        try:
            await suffer(home, fault)
        except Exception as problem:
            problem.add_note(f"with the fault {fault.name}")
            raise
    grown = peak_mib(home.sidecar.pid) - idle
    print(f"peak above idle: {grown:.1f} MiB")
    assert grown < 60


async def test_a_bigger_datafile_is_as_good_as_a_small_one(home: Home) -> None:
    """3.5 MiB arrive whole, compressed or not."""
    for revision, compress in ((11, False), (12, True)):
        body = realistic(3584, revision)
        home.upstream.answer = ok(body, compress=compress)
        await home.announce(revision)
        await home.until_published(revision)
        assert home.file.read_bytes() == body


def resident_mib(pid: int) -> float:
    """What the process holds now."""
    return memory(pid, "VmRSS")


def peak_mib(pid: int) -> float:
    """The most that it ever held."""
    return memory(pid, "VmHWM")


def memory(pid: int, name: str) -> float:
    """One line of the process's status, in MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:"))
