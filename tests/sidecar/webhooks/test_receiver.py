"""Every answer of the webhook port, byte by byte over real sockets."""

import asyncio
import gzip
import io
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from datafile_sidecar.core.state import Trigger
from datafile_sidecar.core.webhook import DatafileUpdated, signature
from datafile_sidecar.network.server import bind, serving
from datafile_sidecar.observe import logs
from datafile_sidecar.observe.telemetry import Telemetry
from datafile_sidecar.webhooks import receiver
from datafile_sidecar.webhooks.receiver import Receiver
from datafile_sidecar.webhooks.stats import WebhookStats

SECRET = b"test-secret-1"
PATH = b"/webhooks/optimizely"
BODY = (
    b'{"project_id":1234,"timestamp":1700000000,"event":"project.datafile_updated","data":{"revision":43,'
    b'"origin_url":"http://127.0.0.1:9000/json/1234.json","cdn_url":"http://127.0.0.1:9000/datafiles/KEY1.json",'
    b'"environment":"Production"}}'
)
OURS = DatafileUpdated(
    "1234",
    43,
    "Production",
    ("http://127.0.0.1:9000/json/1234.json", "http://127.0.0.1:9000/datafiles/KEY1.json"),
    1.7e9,
)


@dataclass
class Endpoint:
    """The real app on a real port, and what it was asked to do."""

    port: int = 0
    secrets: tuple[bytes, ...] = (b"old", SECRET)
    coming: tuple[bytes, ...] = ()
    reloads: int = 0
    awake: tuple[str, ...] | None = ("KEY1",)
    notified: list[DatafileUpdated] = field(default_factory=list)
    triggers: list[Trigger] = field(default_factory=list)
    relayed: list[tuple[bytes, bytes]] = field(default_factory=list)
    stream: io.StringIO = field(default_factory=io.StringIO)
    is_kept: bool = True
    asked: list[tuple[bytes, tuple[str, ...]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.telemetry = Telemetry(logs.configure("info", "json", self.stream), time.monotonic)
        self.stats = WebhookStats(lambda: 1_700_000_000)
        self.receiver = Receiver(
            secrets=lambda: self.secrets,
            reload_secrets=self._reload_secrets,
            notify=self._notify,
            relay=self._relay,
            stats=self.stats,
            telemetry=self.telemetry,
            is_kept=self._is_kept,
        )

    async def _reload_secrets(self) -> bool:
        self.reloads += 1
        changed = bool(self.coming)
        self.secrets, self.coming = self.secrets + self.coming, ()
        return changed

    def _notify(self, event: DatafileUpdated, trigger: Trigger) -> tuple[str, ...] | None:
        self.notified.append(event)
        self.triggers.append(trigger)
        return self.awake

    def _relay(self, body: bytes, header: bytes, _: DatafileUpdated) -> None:
        self.relayed.append((body, header))

    async def _is_kept(self, body: bytes, sdk_keys: tuple[str, ...]) -> bool:
        self.asked.append((body, sdk_keys))
        return self.is_kept

    @property
    def outcomes(self) -> Counter[str]:
        """How many webhooks had which outcome, as `/metrics` says."""
        lines = self.telemetry.exposition().decode().splitlines()
        counts = (line.rpartition(" ") for line in lines if line.startswith("datafile_sidecar_webhooks_total{"))
        return Counter({name.split('"')[1]: int(float(value)) for name, _, value in counts if float(value)})

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The log."""
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]

    async def send(self, *parts: bytes, wait_s: float = 5) -> bytes:
        """Write raw bytes; all that comes back until the connection is closed."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            for part in parts:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(0.01)
            async with asyncio.timeout(wait_s):
                return await reader.read()
        finally:
            writer.transport.abort()

    async def post(self, body: bytes, *headers: bytes) -> int:
        """The status of one POST with exactly these headers."""
        return _status(await self.send(request(*headers, b"Content-Length: %d" % len(body)) + body))


def request(*headers: bytes, line: bytes = b"POST " + PATH) -> bytes:
    return b"\r\n".join([line + b" HTTP/1.1", b"Host: x", b"Connection: close", *headers, b"", b""])


def signed(body: bytes, secret: bytes = SECRET) -> bytes:
    return b"X-Hub-Signature: " + signature(body, secret).encode()


def _message(body: bytes, *headers: bytes) -> bytes:
    return request(signed(body), b"Content-Length: %d" % len(body), *headers) + body


def _status(answer: bytes) -> int:
    assert answer.startswith((b"HTTP/1.1 ", b"HTTP/1.0 ")), answer
    return int(answer[9:12])


@pytest.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    endpoint = Endpoint()
    socket = bind("127.0.0.1", 0, "DATAFILE_WEBHOOK_LISTEN")
    endpoint.port = socket.getsockname()[1]
    async with serving(endpoint.receiver.app(), socket):
        yield endpoint
        assert not [line for line in endpoint.lines if line["level"] == "error"]


DEEP = b"[" * 30_000 + b"]" * 30_000
DIGITS = b'{"project_id":' + b"9" * 5000 + b"}"
ODD = (
    '{ "event":"project.datafile_updated" ,\n "project_id":1234,"timestamp":1.70e9,"note":"\u2028é",'
    '"data":{"revision":43}}\r\n'
).encode()
OTHER = b'{"event":"project.flag_updated"}'
APPROVAL = b'{"project_id":1234,"timestamp":1,"event":"project.approval_created","data":[{"change_type":"x"}]}'

ANSWERS = [
    ("as Optimizely sends it", BODY, [b"X-Hub-Signature: sha1=9e5f6e42a74a5b82fd4d1471b210494c0790f92e"], 202, "accepted"),
    ("any case of the header's name", BODY, [signed(BODY).replace(b"X-Hub", b"x-hUB")], 202, "accepted"),
    ("the older of two secrets", BODY, [signed(BODY, b"old")], 202, "accepted"),
    ("bytes that JSON would write otherwise", ODD, [signed(ODD)], 202, "accepted"),
    ("another event, data is a list", APPROVAL, [signed(APPROVAL)], 200, "ignored"),
    ("an event without data", OTHER, [signed(OTHER)], 200, "ignored"),
    *((f"signed, but no event: {body[:20]!r}", body, [signed(body)], 400, "malformed")
      for body in (b"", b"[]", b"null", b'"x"', b"{", b'{"event":"project.datafile_updated","data":null}')),
    ("deep nesting", DEEP, [signed(DEEP)], 400, "malformed"),
    ("5,000 digits", DIGITS, [signed(DIGITS)], 400, "malformed"),
    ("deep nesting, unsigned", DEEP, [], 401, "unverified"),
    ("no signature", BODY, [], 401, "unverified"),
    ("an empty signature", BODY, [b"X-Hub-Signature:"], 401, "unverified"),
    ("an invalid byte in the header", BODY, [b"X-Hub-Signature: sha1=\xe9"], 401, "unverified"),
    ("UTF-8 in the header", BODY, [b"X-Hub-Signature: sha1=\xc3\xa9"], 401, "unverified"),
    ("signed with the secret and its line feed", BODY, [signed(BODY, SECRET + b"\n")], 401, "unverified"),
    ("signed with an empty secret", BODY, [signed(BODY, b"")], 401, "unverified"),
    ("the last two bytes cut off", ODD[:-2], [signed(ODD)], 401, "unverified"),
    ("SHA-256", BODY, [signed(BODY).replace(b"sha1", b"sha256")], 401, "unverified"),
    ("two signatures, one good", BODY, [signed(BODY), b"X-Hub-Signature: sha1=00"], 401, "unverified"),
    ("two good signatures", BODY, [signed(BODY), signed(BODY)], 401, "unverified"),
    ("another header", BODY, [signed(BODY).replace(b"Signature", b"Signature-256")], 401, "unverified"),
    ("64 KiB", b"x" * 65536, [signed(b"x" * 65536)], 400, "malformed"),
    ("a byte more", b"x" * 65537, [signed(b"x" * 65537)], 413, "too_large"),
    ("2 MiB", b"x" * (2 << 20), [], 413, "too_large"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("body", "headers", "status", "outcome"), [a[1:] for a in ANSWERS], ids=[a[0] for a in ANSWERS]
)
async def test_answer(endpoint: Endpoint, body: bytes, headers: list[bytes], status: int, outcome: str) -> None:
    """Each webhook gets the answer of the contract, wakes a loop only when it is signed and ours, and is counted once."""
    assert await endpoint.post(body, *headers) == status
    assert len(endpoint.notified) == len(endpoint.relayed) == (status == 202)
    assert endpoint.outcomes == {outcome: 1}
    assert len(endpoint.lines) == 1


async def test_stats(endpoint: Endpoint) -> None:
    """`/status` shows that webhooks arrive and what is wrong with them and, once a valid one has come, that the error is over."""
    moment = "2023-11-14T22:13:20.000Z"
    await endpoint.post(BODY, b"X-Hub-Signature: sha1=00")
    status = endpoint.stats.status(has_secrets=True)
    assert status["outcomes"] == {"unverified": 1}
    assert (status["state"], status["verified"], status["rejected"]) == ("on", None, moment)
    assert status["last_error"] == "the signature is missing or wrong"
    await endpoint.post(BODY, signed(BODY))
    status = endpoint.stats.status(has_secrets=True)
    assert status["outcomes"] == {"unverified": 1, "accepted": 1}
    assert (status["verified"], status["rejected"], status["last_error"]) == (moment, moment, None)
    endpoint.awake = ()
    await endpoint.post(BODY, signed(BODY))
    assert endpoint.stats.status(has_secrets=False)["outcomes"]["ignored"] == 1
    assert endpoint.stats.status(has_secrets=False)["state"] == "off"


async def test_delay(endpoint: Endpoint) -> None:
    """How long after its change was saved a webhook came is in the status and counted once, where it can be believed."""
    late = BODY.replace(b'"timestamp":1700000000', b'"timestamp":1699999997')
    long_ago = BODY.replace(b'"timestamp":1700000000', b'"timestamp":1500000000')
    for body, delay_s in ((late, 3.0), (late, 3.0), (long_ago, None)):
        await endpoint.post(body, signed(body))
        assert endpoint.stats.status(has_secrets=True)["delay_s"] == delay_s
    text = endpoint.telemetry.exposition().decode()
    assert "datafile_sidecar_webhook_delay_seconds_count 1.0\n" in text
    assert "datafile_sidecar_webhook_delay_seconds_sum 3.0\n" in text


async def test_event(endpoint: Endpoint) -> None:
    """The keys are notified of exactly what the event says."""
    assert await endpoint.post(BODY, signed(BODY)) == 202
    assert endpoint.notified == [OURS]


async def test_relay(endpoint: Endpoint) -> None:
    """A signed webhook is relayed as it came, whatever it means here; one that was relayed to us is not relayed again."""
    endpoint.awake = ()
    assert await endpoint.post(ODD, signed(ODD)) == 200
    other = ODD + b" "
    assert await endpoint.post(other, signed(other), b"X-Datafile-Relayed: 1") == 200
    assert endpoint.relayed == [(ODD, signature(ODD, SECRET).encode())]
    assert endpoint.triggers == [Trigger.WEBHOOK, Trigger.PEER]


@pytest.mark.parametrize(
    ("awake", "why"),
    [
        ((), b"nothing to do: its revision is already on the volume\n"),
        (None, b"nothing to do: it concerns none of the SDK keys of this sidecar\n"),
    ],
)
async def test_nothing_newer(endpoint: Endpoint, awake: tuple[str, ...] | None, why: bytes) -> None:
    """An event that is no news is acknowledged with 200, which no sender takes for a failure, and a word why."""
    endpoint.awake = awake
    answer = await endpoint.send(request(signed(BODY), b"Content-Length: %d" % len(BODY)) + BODY)
    assert (_status(answer), answer.partition(b"\r\n\r\n")[2]) == (200, why)
    assert endpoint.outcomes == {"ignored": 1}


@pytest.mark.parametrize("awake", [("KEY1",), ()], ids=["accepted", "ignored"])
async def test_repeated(endpoint: Endpoint, awake: tuple[str, ...]) -> None:
    """A webhook that comes again, from whichever side, wakes nothing and adds no line; the relay decides whether to pass it on."""
    endpoint.awake = awake
    assert await endpoint.post(BODY, signed(BODY)) == (202 if awake else 200)
    relayed = (b"X-Datafile-Relayed: 1",)
    answers = [await endpoint.send(_message(BODY, *headers)) for headers in ((), relayed, ())]
    assert {answer.partition(b"\r\n\r\n")[2] for answer in answers} == {b"nothing to do: it was already received\n"}
    assert [_status(answer) for answer in answers] == [200] * 3
    assert (len(endpoint.notified), len(endpoint.relayed), len(endpoint.lines)) == (1, 3, 1)
    assert endpoint.outcomes == ({"accepted": 1, "ignored": 3} if awake else {"ignored": 4})
    assert await endpoint.post(BODY, signed(BODY, b"wrong")) == 401
    assert await endpoint.post(BODY + b" ", signed(BODY + b" ")) == (202 if awake else 200)


async def test_stopping(endpoint: Endpoint) -> None:
    """What is not passed on before the end is answered 503, and taken when it comes again; a forgery learns nothing new."""
    endpoint.is_kept = False
    assert await endpoint.post(BODY, signed(BODY)) == 503
    assert await endpoint.post(BODY, signed(BODY)) == 503
    assert await endpoint.post(BODY, signed(BODY, b"wrong")) == 401
    assert await endpoint.post(b"[]", signed(b"[]")) == 400
    endpoint.is_kept = True
    assert await endpoint.post(BODY, signed(BODY)) == 202
    assert endpoint.outcomes == {"stopping": 2, "unverified": 1, "malformed": 1, "accepted": 1}
    assert endpoint.asked == [(BODY, ("KEY1",))] * 3


@pytest.mark.parametrize("secrets", [(), (b"",)])
async def test_no_secret(endpoint: Endpoint, secrets: tuple[bytes, ...]) -> None:
    """Without a secret no webhook is accepted, whatever signs it."""
    endpoint.secrets = secrets
    expected = 401 if secrets else 503
    for header in (signed(BODY), signed(BODY, b""), b"X-Hub-Signature: x"):
        assert await endpoint.post(BODY, header) == expected
    assert await endpoint.post(b"x" * 70_000, signed(BODY)) == 413
    assert not endpoint.notified


async def test_one_answer_for_all(endpoint: Endpoint) -> None:
    """The answer does not reveal whether the signature was missing, malformed or merely wrong."""
    heads = [(), (b"X-Hub-Signature: sha1=\xe9",), (signed(BODY, b"wrong"),), (signed(BODY), signed(BODY))]
    answers = {
        (await endpoint.send(request(*head, b"Content-Length: %d" % len(BODY)) + BODY)).partition(b"\r\n\r\n")[2]
        for head in heads
    }
    assert answers == {b"the signature is missing or wrong\n"}


async def test_new_secret(endpoint: Endpoint) -> None:
    """A webhook signed with a secret that has just been mounted is accepted at once; an unsigned one causes no reload."""
    endpoint.coming = (b"new",)
    assert await endpoint.post(BODY) == 401
    assert endpoint.reloads == 0
    assert await endpoint.post(BODY, signed(BODY, b"new")) == 202
    assert await endpoint.post(BODY, signed(BODY, b"newer")) == 401
    assert endpoint.reloads == 2


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"GET " + PATH, 405), (b"HEAD " + PATH, 405), (b"PUT " + PATH, 405), (b"DELETE " + PATH, 405), (b"OPTIONS " + PATH, 405),
        (b"PATCH " + PATH, 405), (b"POST /", 404), (b"POST " + PATH + b"/", 404), (b"POST /webhook", 404), (b"GET /livez", 404),
        (b"GET /metrics", 404), (b"POST /../webhooks/optimizely/..", 404), (b"OPTIONS *", 404), (b"CONNECT x:1", 404),
        (b"POST " + PATH + b"?x=1", 401), (b"BREW " + PATH, 400),
    ],
)  # fmt: skip
async def test_elsewhere(endpoint: Endpoint, line: bytes, status: int) -> None:
    """Nothing but a POST to the one path does anything on this port, and nothing of the admin port is served here."""
    assert _status(await endpoint.send(request(line=line))) == status
    assert not endpoint.notified


class TestBody:
    async def test_chunked(self, endpoint: Endpoint) -> None:
        """A proxy may pass a webhook on in chunks, in as many packets as it likes."""
        chunks = [b"%x\r\n%s\r\n" % (len(part), part) for part in (BODY[:1], BODY[1:200], BODY[200:])]
        answer = await endpoint.send(request(signed(BODY), b"Transfer-Encoding: chunked"), *chunks, b"0\r\n\r\n")
        assert _status(answer) == 202
        assert endpoint.notified == [OURS]

    async def test_chunked_without_end(self, endpoint: Endpoint) -> None:
        """A body that never ends is cut off soon after the limit, not read into memory."""
        chunk = b"8000\r\n" + b"x" * 0x8000 + b"\r\n"
        answer = await endpoint.send(request(signed(BODY), b"Transfer-Encoding: chunked"), chunk, chunk, chunk)
        assert _status(answer) == 413

    async def test_announced_too_large(self, endpoint: Endpoint) -> None:
        """A body that says it is too large is refused before any of it has come."""
        assert _status(await endpoint.send(request(b"Content-Length: 99999999999"))) == 413

    async def test_gzip(self, endpoint: Endpoint) -> None:
        """The signature is over the bytes of the wire: what is compressed is neither unpacked nor understood."""
        packed = gzip.compress(BODY)
        assert await endpoint.post(packed, signed(BODY), b"Content-Encoding: gzip") == 401
        assert await endpoint.post(packed, signed(packed), b"Content-Encoding: gzip") == 400
        bomb = gzip.compress(bytes(50 << 20))
        assert await endpoint.post(bomb, signed(bomb), b"Content-Encoding: gzip") == (413 if len(bomb) > 65536 else 400)
        assert not endpoint.notified

    async def test_expect(self, endpoint: Endpoint) -> None:
        """A client that asks before it sends its body is told to go on."""
        answer = await endpoint.send(
            request(signed(BODY), b"Content-Length: %d" % len(BODY), b"Expect: 100-continue"), BODY
        )
        assert answer.startswith(b"HTTP/1.1 100 ")
        assert b"HTTP/1.1 202 " in answer

    async def test_slow(self, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
        """A client that does not send the body in time gets 408, whether it stalls or drips; others are served meanwhile."""
        monkeypatch.setattr(receiver, "BODY_TIMEOUT_S", 0.3)
        head = request(signed(BODY), b"Content-Length: 1000").replace(b"Connection: close\r\n", b"")
        slow = asyncio.gather(endpoint.send(head, b"abc"), endpoint.send(head, *[b"x"] * 50), endpoint.send(head))
        assert await endpoint.post(BODY, signed(BODY)) == 202
        answers = await slow
        assert [_status(answer) for answer in answers] == [408, 408, 408]
        assert endpoint.outcomes == {"accepted": 1, "too_slow": 3}

    @pytest.mark.parametrize("how", ["half-closed", "closed", "reset"])
    async def test_broken_off(self, endpoint: Endpoint, how: str) -> None:
        """A connection that breaks in the middle of a body is counted, and logged without a traceback: it is not our error."""
        _, writer = await asyncio.open_connection("127.0.0.1", endpoint.port)
        writer.write(request(signed(BODY), b"Content-Length: 1000") + b"abc")
        await writer.drain()
        await asyncio.sleep(0.05)
        {"half-closed": writer.write_eof, "closed": writer.close, "reset": writer.transport.abort}[how]()
        async with asyncio.timeout(3):
            while not endpoint.outcomes:
                await asyncio.sleep(0.01)
        writer.transport.abort()
        assert endpoint.outcomes == {"broken_off": 1}
        assert [line["event"] for line in endpoint.lines] == ["webhook.rejected"]


MALFORMED_HTTP = {
    "a header of 20 kB": request(b"X: " + b"a" * 20_000),
    "5,000 headers": request(*(b"X-%d: a" % number for number in range(5000))),
    "a TLS handshake": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a bad length": request(b"Content-Length: -1"),
    "two lengths": request(b"Content-Length: 3", b"Content-Length: 4") + b"abcd",
    "length and chunks": request(b"Content-Length: 3", b"Transfer-Encoding: chunked") + b"3\r\nabc\r\n0\r\n\r\n",
    "a bad chunk": request(b"Transfer-Encoding: chunked") + b"zz\r\nabc",
    "a zero byte": request(b"X-Hub-Signature: sha1=\x00"),
    "bytes in the path": request(line=b"POST /\xff\xfe"),
    "a folded header": request(b"X: a\r\n b"),
}


@pytest.mark.parametrize("sent", MALFORMED_HTTP.values(), ids=MALFORMED_HTTP.keys())
async def test_malformed_http(endpoint: Endpoint, sent: bytes) -> None:
    """Malformed HTTP gets 400 and nothing else happens: no line in the log, which scanners could fill a disk with."""
    assert _status(await endpoint.send(sent)) in {400, 431}
    assert endpoint.lines == []
    assert await endpoint.post(BODY, signed(BODY)) == 202


async def test_pipelined(endpoint: Endpoint) -> None:
    """A connection carries one webhook, and its answer says so: a sender that reused one could lose a webhook unnoticed."""
    head = request(b"Content-Length: %d" % len(BODY)).replace(b"Connection: close\r\n", b"")
    good = request(signed(BODY), b"Content-Length: %d" % len(BODY)) + BODY
    answer = await endpoint.send(head + BODY + head + BODY + good)
    assert [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]] == [b"401"]
    assert b"connection: close" in answer.lower()
    assert endpoint.notified == []


async def test_crowd(endpoint: Endpoint) -> None:
    """A hundred silent or half-sent connections keep no webhook waiting, and are dropped within seconds."""
    heads = [b"", b"POST /webhooks HTTP/1.1\r\nHost: x\r\n", request(b"Content-Length: 100") + b"abc"]
    crowd = [asyncio.create_task(endpoint.send(heads[number % 3], wait_s=8)) for number in range(99)]
    await asyncio.sleep(0.2)
    started = time.monotonic()
    assert await endpoint.post(BODY, signed(BODY)) == 202
    assert time.monotonic() - started < 1
    await asyncio.gather(*crowd)
    assert time.monotonic() - started < 7
    assert endpoint.outcomes == {"accepted": 1, "too_slow": 33}


async def test_flood(endpoint: Endpoint) -> None:
    """Many bad signatures at once are all counted and make one line in the log; a real webhook passes among them."""
    answers = await asyncio.gather(
        *(endpoint.post(BODY, b"X-Hub-Signature: x") for _ in range(200)), endpoint.post(BODY, signed(BODY))
    )
    assert Counter(answers) == {401: 200, 202: 1}
    assert endpoint.outcomes == {"unverified": 200, "accepted": 1}
    assert sorted(line["event"] for line in endpoint.lines) == ["webhook.accepted", "webhook.rejected"]
