"""The stand-in for Optimizely: what it serves, what it posts, and what its two commands tell a person."""

import asyncio
import contextlib
import gzip
import json
import os
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import ClientSession, ServerDisconnectedError, web
from aiohttp.test_utils import TestServer

from datafile_sidecar.cli.simulator import Simulator, send_webhook, simulate, webhook_body
from datafile_sidecar.core import webhook

KEY, SECRET = "KEY1", b"test-secret-1"


def datafile(revision: int, **more: object) -> bytes:
    fields = {"version": "4", "revision": str(revision), "projectId": "777", "accountId": "222", "anonymizeIP": True}
    lists = dict.fromkeys(
        ("rollouts", "typedAudiences", "variables", "featureFlags", "experiments", "audiences", "groups", "attributes",
         "events"), (),
    )  # fmt: skip
    return json.dumps({**fields, **lists, "padding": "x" * 2000, **more}).encode()


class Receiver:
    """A webhook endpoint that keeps what it got and answers `status`."""

    def __init__(self) -> None:
        self.status = 202
        self.got: list[tuple[bytes, dict[str, str]]] = []
        self.peers: list[object] = []
        self.url = ""

    async def take(self, request: web.Request) -> web.Response:
        assert request.transport
        self.peers.append(request.transport.get_extra_info("peername"))
        self.got.append((await request.read(), dict(request.headers)))
        return web.Response(status=self.status)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    application = web.Application()
    application.router.add_post("/webhooks/optimizely", receiver.take)
    async with TestServer(application) as server:
        receiver.url = str(server.make_url("/webhooks/optimizely"))
        yield receiver


@pytest.fixture
async def simulator(receiver: Receiver) -> AsyncIterator[Simulator]:
    async with Simulator({KEY: datafile(42)}, secret=SECRET, webhook_urls=[receiver.url]) as simulator:
        yield simulator


@pytest.fixture
async def browser() -> AsyncIterator[ClientSession]:
    async with ClientSession(auto_decompress=False) as session:
        yield session


async def revision_at(browser: ClientSession, simulator: Simulator, path: str = f"/datafiles/{KEY}.json") -> int:
    async with browser.get(simulator.url + path, headers={"Accept-Encoding": "identity"}) as answer:
        return int(json.loads(await answer.read())["revision"])


class TestServing:
    async def test_bytes(self, simulator: Simulator, browser: ClientSession) -> None:
        """A sidecar that asks for no compression gets the datafile's exact bytes, from CDN and origin."""
        for path in (simulator.template.format(sdk_key=KEY), f"{simulator.url}/origin/datafiles/{KEY}.json"):
            async with browser.get(path, headers={"Accept-Encoding": "identity"}) as answer:
                assert (answer.status, await answer.read()) == (200, datafile(42))
                assert "Content-Encoding" not in answer.headers
        assert [asked.source for asked in simulator.requests] == ["cdn", "origin"]

    async def test_gzip(self, simulator: Simulator, browser: ClientSession) -> None:
        """A sidecar that takes gzip gets the same datafile in far fewer bytes."""
        async with browser.get(simulator.template.format(sdk_key=KEY), headers={"Accept-Encoding": "gzip"}) as answer:
            body = await answer.read()
        assert answer.headers["Content-Encoding"] == "gzip"
        assert len(body) < 200
        assert gzip.decompress(body) == datafile(42)

    @pytest.mark.parametrize("encoding", ["gzip", "identity"])
    @pytest.mark.parametrize(
        ("validator", "condition"), [("ETag", "If-None-Match"), ("Last-Modified", "If-Modified-Since")]
    )
    async def test_conditional(
        self, simulator: Simulator, browser: ClientSession, encoding: str, validator: str, condition: str
    ) -> None:
        """Asking again for what one has costs a 304, and a newer datafile comes whole, even within the same second."""
        url = simulator.template.format(sdk_key=KEY)
        async with browser.get(url, headers={"Accept-Encoding": encoding}) as first:
            headers = {"Accept-Encoding": encoding, condition: first.headers[validator]}
        async with browser.get(url, headers=headers) as again:
            assert (again.status, await again.read()) == (304, b"")
            assert again.headers[validator] == first.headers[validator]
        simulator.put(KEY, datafile(43))
        async with browser.get(url, headers=headers) as newer:
            assert newer.status == 200
        assert [(asked.conditional, asked.status) for asked in simulator.requests] == [
            (False, 200), (True, 304), (True, 200),
        ]  # fmt: skip

    async def test_lags(self, simulator: Simulator, browser: ClientSession) -> None:
        """CDN and origin lag behind a new datafile each by its own time, and can be let catch up at any moment."""
        simulator.cdn_lag_s, simulator.origin_lag_s = 3600, 0
        simulator.put(KEY, datafile(43))
        assert await revision_at(browser, simulator) == 42
        assert await revision_at(browser, simulator, f"/origin/datafiles/{KEY}.json") == 43
        simulator.cdn_lag_s = 0
        assert await revision_at(browser, simulator) == 43

    async def test_lag_does_not_take_back(self, simulator: Simulator, browser: ClientSession) -> None:
        """A longer lag delays what comes; it does not take back what was served already."""
        simulator.put(KEY, datafile(43))
        simulator.cdn_lag_s = 3600
        simulator.put(KEY, datafile(44))
        assert await revision_at(browser, simulator) == 43

    async def test_lag_ends_by_itself(self, simulator: Simulator, browser: ClientSession) -> None:
        """A lag of a moment is over a moment later."""
        simulator.cdn_lag_s = 0.2
        simulator.put(KEY, datafile(43))
        assert await revision_at(browser, simulator) == 42
        await asyncio.sleep(0.25)
        assert await revision_at(browser, simulator) == 43

    @pytest.mark.parametrize("listen", [(None, 0), ("0.0.0.0", 0), ("::1", 0), ("localhost", 0)])
    async def test_url(self, listen: tuple[str | None, int], browser: ClientSession) -> None:
        """Wherever the simulator listens, the URL that it names can be asked from this machine."""
        async with Simulator({KEY: datafile(42)}, listen=listen, secret=None) as simulator:
            assert await revision_at(browser, simulator) == 42

    async def test_unknown(self, simulator: Simulator, browser: ClientSession) -> None:
        """A wrong SDK key is answered as the CDN does it, 403, and every odd path is on record."""
        for path, status in (("/datafiles/undefined.json", 403), ("/latest/meta-data", 404)):
            async with browser.get(simulator.url + path) as answer:
                assert answer.status == status
        assert [(asked.path, asked.sdk_key) for asked in simulator.requests] == [
            ("/datafiles/undefined.json", "undefined"), ("/latest/meta-data", ""),
        ]  # fmt: skip

    async def test_access_token(self, simulator: Simulator, browser: ClientSession) -> None:
        """A secure environment's datafile is for the bearer of its token, who is not betrayed by a log line."""
        simulator.access_tokens[KEY] = "t0k3n"
        url = simulator.auth_template.format(sdk_key=KEY)
        statuses = []
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer t0k3n"}):
            async with browser.get(url, headers=headers) as answer:
                statuses.append(answer.status)
        async with browser.get(simulator.template.format(sdk_key=KEY)) as answer:
            statuses.append(answer.status)
        assert statuses == [403, 403, 200, 403]
        assert simulator.requests[2].authorization == "Bearer t0k3n"
        assert "t0k3n" not in repr(simulator.requests)

    async def test_no_token_opens_nothing(self, simulator: Simulator, browser: ClientSession) -> None:
        """The path for secure environments is shut to a key that has no token."""
        url = simulator.auth_template.format(sdk_key=KEY)
        async with browser.get(url, headers={"Authorization": "Bearer None"}) as answer:
            assert answer.status == 403

    async def test_wrong_answer(self, simulator: Simulator, browser: ClientSession) -> None:
        """A test can let Optimizely answer wrongly for a while, and all is on record."""

        async def answer(_: web.Request) -> web.Response | None:
            return web.Response(status=503, headers={"Retry-After": "7"}) if len(simulator.requests) == 1 else None

        simulator.answer = answer
        async with browser.get(simulator.template.format(sdk_key=KEY)) as got:
            assert (got.status, got.headers["Retry-After"]) == (503, "7")
        assert await revision_at(browser, simulator) == 42
        assert [asked.status for asked in simulator.requests] == [503, 200]

    async def test_broken_connection(self, simulator: Simulator, browser: ClientSession) -> None:
        """A test can let Optimizely hang up."""

        async def hang_up(request: web.Request) -> None:
            assert request.transport
            request.transport.close()

        simulator.answer = hang_up
        with pytest.raises(ServerDisconnectedError):
            await browser.get(simulator.template.format(sdk_key=KEY))
        assert simulator.requests


class TestAnnouncing:
    async def test_event(self, simulator: Simulator, receiver: Receiver) -> None:
        """The receiver gets the documented event, signed over its raw bytes, with the datafile's own project and URLs."""
        assert await simulator.publish(KEY, datafile(43)) == 202
        [(body, headers)] = receiver.got
        assert webhook.verify(body, headers["X-Hub-Signature"].encode(), [SECRET])
        event = json.loads(body)
        assert event.pop("timestamp") > 1_700_000_000
        assert event == {
            "project_id": 777,
            "event": "project.datafile_updated",
            "data": {
                "revision": 43,
                "origin_url": f"{simulator.url}/origin/datafiles/{KEY}.json",
                "cdn_url": f"{simulator.url}/datafiles/{KEY}.json",
                "environment": "Production",
            },
        }

    async def test_datafile_is_there_first(
        self, simulator: Simulator, receiver: Receiver, browser: ClientSession
    ) -> None:
        """Whoever is told of a revision can fetch it at once, when nothing lags."""
        await simulator.publish(KEY, datafile(43))
        assert receiver.got
        assert await revision_at(browser, simulator) == 43

    async def test_old_project(self, simulator: Simulator, receiver: Receiver) -> None:
        """An event of an older project, or a wrong one, can be sent too."""
        await simulator.announce(KEY, 9, project_id="9999", environment=None, cdn_url="", origin_url="", event="other")
        event = json.loads(receiver.got[0][0])
        assert (event["project_id"], event["event"]) == ("9999", "other")
        assert event["data"] == {"revision": 9, "origin_url": "", "cdn_url": ""}

    async def test_wrong_secret_and_none(self, simulator: Simulator, receiver: Receiver) -> None:
        """The secret can change while the simulator runs; without one, nothing is signed."""
        for secret in (b"other", None):
            simulator.secret = secret
            await simulator.announce(KEY, 43)
        assert not webhook.verify(receiver.got[0][0], receiver.got[0][1]["X-Hub-Signature"].encode(), [SECRET])
        assert "X-Hub-Signature" not in receiver.got[1][1]

    async def test_connection_of_its_own(self, simulator: Simulator, receiver: Receiver) -> None:
        """No webhook is lost because a connection that was kept has just been closed by the other end."""
        for _ in range(2):
            await simulator.announce(KEY, 43)
        assert len(set(receiver.peers)) == 2

    async def test_every_url(self, simulator: Simulator, receiver: Receiver) -> None:
        """Each webhook URL is told, and the worst answer is the answer."""
        simulator.webhook_urls.append(receiver.url.replace("webhooks", "wrong"))
        assert await simulator.announce(KEY, 43) == 404
        assert len(receiver.got) == 1
        simulator.webhook_urls.clear()
        assert await simulator.announce(KEY, 43) == 0

    def test_body_is_what_the_sidecar_reads(self) -> None:
        """What the simulator says is what the sidecar understands."""
        event = webhook.parse(webhook_body(43, project_id=5, cdn_url="http://127.0.0.1/datafiles/KEY1.json"))
        assert event == webhook.DatafileUpdated("5", 43, "Production", ("http://127.0.0.1/datafiles/KEY1.json",))


class TestSendWebhook:
    @pytest.mark.parametrize(
        ("status", "exit_status", "words"),
        [
            (202, 0, "fetches now"), (204, 0, "nothing to do"), (401, 1, "secret"), (503, 1, "DATAFILE_WEBHOOK_SECRETS"),
            (400, 1, "cannot read"), (418, 1, "something else"),
        ],
    )  # fmt: skip
    async def test_answers(
        self, receiver: Receiver, capsys: pytest.CaptureFixture[str], status: int, exit_status: int, words: str
    ) -> None:
        """Every answer of the sidecar comes with its meaning, and a script can tell good from bad."""
        receiver.status = status
        assert await send(receiver.url) == exit_status
        printed = capsys.readouterr().out
        assert f"answered {status}" in printed
        assert words in printed
        [(body, headers)] = receiver.got
        assert webhook.verify(body, headers["X-Hub-Signature"].encode(), [SECRET])
        assert announced(body) == (KEY,)
        assert b"optimizely.com" not in body  # it would send a sidecar on a laptop to the real CDN

    @pytest.mark.parametrize(
        ("url", "words"),
        [
            ("http://127.0.0.1:1/webhooks/optimizely", "is the sidecar running"),
            ("127.0.0.1:8089", "is no URL"),
            ("nonsense", "is no URL"),
            ("", "is no URL"),
        ],
    )
    async def test_not_delivered(self, capsys: pytest.CaptureFixture[str], url: str, words: str) -> None:
        """Nobody there, or no URL: one sentence says so, without a traceback."""
        assert await send(url) == 1
        assert words in capsys.readouterr().out

    async def test_wrong_path(self, receiver: Receiver, capsys: pytest.CaptureFixture[str]) -> None:
        """A wrong path is answered with the right one."""
        assert await send(receiver.url.removesuffix("optimizely")) == 1
        assert "/webhooks/optimizely" in capsys.readouterr().out


def announced(body: bytes) -> tuple[str, ...]:
    event = webhook.parse(body)
    assert isinstance(event, webhook.DatafileUpdated)
    return webhook.attribute(event, {KEY: "777", "OTHER": "777"}).announced


async def send(url: str) -> int:
    return await send_webhook(
        url=url, secret=SECRET, sdk_key=KEY, revision=43, project_id=None, environment="Production"
    )


class Session:
    """A running `simulate`, read as a person reads it."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.printed = ""

    async def line(self, pattern: str) -> re.Match[str]:
        async with asyncio.timeout(5):
            while True:
                self.printed += self._capsys.readouterr().out
                if match := re.search(pattern, self.printed):
                    return match
                await asyncio.sleep(0.01)


class TestSimulate:
    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        file = tmp_path / "datafile.json"
        file.write_bytes(datafile(42))
        return file

    @contextlib.asynccontextmanager
    async def running(
        self, file: Path, capsys: pytest.CaptureFixture[str], webhook_url: str | None
    ) -> AsyncIterator[Session]:
        command = asyncio.create_task(
            simulate(datafile=file, sdk_key=KEY, listen="127.0.0.1:0", webhook_url=webhook_url, secret=SECRET, lag_s=0)
        )
        session = Session(capsys)
        await session.line("Each edit")
        yield session
        os.kill(os.getpid(), signal.SIGTERM)
        async with asyncio.timeout(5):
            assert await command == 0

    async def test_edit(
        self, file: Path, receiver: Receiver, browser: ClientSession, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Saving the file raises the served revision and tells the sidecar; the file itself stays as it was saved."""
        async with self.running(file, capsys, receiver.url) as session:
            template = (await session.line(r"DATAFILE_URL_TEMPLATE=(\S+)"))[1]
            file.write_bytes(datafile(42, edited=True, sdkKey="another"))
            await session.line("revision 43 is served; webhook answered 202")
            async with browser.get(template.format(sdk_key=KEY), headers={"Accept-Encoding": "identity"}) as answer:
                served = json.loads(await answer.read())
        assert (served["revision"], served["edited"], served["sdkKey"]) == ("43", True, KEY)
        assert json.loads(file.read_bytes())["revision"] == "42"
        assert announced(receiver.got[0][0]) == (KEY,)

    async def test_half_edited(self, file: Path, receiver: Receiver, capsys: pytest.CaptureFixture[str]) -> None:
        """A half-saved, wrong or missing file is reported once, nobody is told, and the next good edit goes out."""
        async with self.running(file, capsys, receiver.url) as session:
            file.write_bytes(datafile(42)[:100])
            await session.line("revision 42 stays: .*no JSON")
            file.write_bytes(datafile(43, featureFlags=[{"id": "1"}]))
            await session.line("revision 42 stays: .*featureFlags")
            file.unlink()
            await session.line("revision 42 stays: .*No such file")
            await asyncio.sleep(0.3)
            file.write_bytes(datafile(60))
            await session.line("revision 60 is served")
        assert len(session.printed.splitlines()) == 7
        assert [json.loads(body)["data"]["revision"] for body, _ in receiver.got] == [60]

    async def test_touch(self, file: Path, receiver: Receiver, capsys: pytest.CaptureFixture[str]) -> None:
        """Saving the file without a change is no edit; an editor that replaces it makes one."""
        async with self.running(file, capsys, receiver.url) as session:
            os.utime(file, (1, 1))
            await asyncio.sleep(0.3)
            assert not receiver.got
            other = file.with_name("datafile.json~")
            other.write_bytes(datafile(42, edited=True))
            other.rename(file)
            await session.line("revision 43 is served")

    async def test_sidecar_away(self, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """While no sidecar listens, edits are served all the same, and the failed webhook is explained."""
        async with self.running(file, capsys, "http://127.0.0.1:1/webhooks/optimizely") as session:
            file.write_bytes(datafile(42, edited=True))
            await session.line("revision 43 is served; webhook not delivered: .*is the sidecar running")

    async def test_nobody_told(self, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """Without a webhook URL the simulator says that nobody is told."""
        async with self.running(file, capsys, None) as session:
            await session.line("no --webhook-url")
            file.write_bytes(datafile(42, edited=True))
            await session.line("revision 43 is served; nobody is told")

    @pytest.mark.parametrize(
        ("text", "listen", "words"),
        [
            (None, "127.0.0.1:0", "No such file"),
            (b"", "127.0.0.1:0", "no JSON"),
            (b"[]", "127.0.0.1:0", "not a JSON object"),
            (datafile(1), "127.0.0.1", "HOST:PORT"),
            (datafile(1), "127.0.0.1:99999", "HOST:PORT"),
            (datafile(1), "192.0.2.1:0", "192.0.2.1"),
        ],
    )
    async def test_cannot_begin(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: bytes | None, listen: str, words: str
    ) -> None:
        """What stands in the way of a start is said in one line, with exit status 2."""
        file = tmp_path / "datafile.json"
        if text is not None:
            file.write_bytes(text)
        assert await simulate(datafile=file, sdk_key=KEY, listen=listen, webhook_url=None, secret=None, lag_s=0) == 2
        [line] = capsys.readouterr().out.splitlines()
        assert words in line
