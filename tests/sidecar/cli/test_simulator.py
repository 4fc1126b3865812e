"""The simulator of Optimizely: what it serves and what it posts."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator

import pytest
from aiohttp import ClientSession, ServerDisconnectedError, web

from datafile_sidecar.cli.simulator import Simulator, webhook_body
from datafile_sidecar.cli.simulator.events import post
from datafile_sidecar.core import webhook
from tests.sidecar.cli.webhook_receiver import KEY, SECRET, Receiver, datafile


@pytest.fixture
async def simulator(receiver: Receiver) -> AsyncIterator[Simulator]:
    async with Simulator({KEY: datafile(42)}, secret=SECRET) as simulator:
        simulator.webhook_urls = [receiver.url]
        yield simulator


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

    async def test_old_project(self, receiver: Receiver) -> None:
        """An event of an older project, or a wrong one, can be sent too."""
        body = webhook_body(9, project_id="9999", environment=None, cdn_url="", origin_url="", event="other")
        await post(receiver.url, body, SECRET)
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
        assert event == webhook.DatafileUpdated("5", 43, "Production", ("http://127.0.0.1/datafiles/KEY1.json",), 0.0)
