"""The admin port over a real socket: what probes, Prometheus and people get."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import ClientSession

from datafile_sidecar.admin.server import Admin
from datafile_sidecar.network.server import bind, serving


@dataclass
class Truth:
    """What the sidecar would say of itself."""

    stuck: list[str] = field(default_factory=list)
    unready: dict[str, str] = field(default_factory=dict)
    status: dict[str, Any] = field(default_factory=dict)
    metrics: bytes = b"# nothing\n"
    scrape: Callable[[], bytes] | None = None


@pytest.fixture
def truth() -> Truth:
    return Truth()


@pytest.fixture
async def browser(truth: Truth) -> AsyncIterator[ClientSession]:
    admin = Admin(
        lambda: truth.stuck,
        lambda: truth.unready,
        lambda: truth.status,
        lambda: truth.scrape() if truth.scrape else truth.metrics,
    )
    socket = bind("127.0.0.1", 0, "DATAFILE_ADMIN_LISTEN")
    async with (
        serving(admin.app(), socket),
        ClientSession(base_url=f"http://127.0.0.1:{socket.getsockname()[1]}") as browser,
    ):
        yield browser


async def get(browser: ClientSession, path: str) -> tuple[int, str]:
    async with browser.get(path) as answer:
        assert answer.content_type == ("application/json" if path == "/status" else "text/plain")
        return answer.status, await answer.text()


async def test_alive(browser: ClientSession, truth: Truth) -> None:
    """The liveness probe passes while the loops run, however unready the sidecar is, and else names the loop that does not."""
    truth.unready = {"KEY1": "upstream is down"}
    assert await get(browser, "/livez") == (200, "ok\n")
    truth.stuck = ["the loop of KEY1", "the loop of KEY2"]
    assert await get(browser, "/livez") == (503, "the loop of KEY1 is stuck\nthe loop of KEY2 is stuck\n")


async def test_ready(browser: ClientSession, truth: Truth) -> None:
    """The readiness probe fails while any key has no file, and says which and why."""
    truth.unready = {"KEY1": "no datafile has been published yet", "sidecar": "it is stopping"}
    assert await get(browser, "/readyz") == (503, "KEY1: no datafile has been published yet\nsidecar: it is stopping\n")
    truth.unready = {}
    assert await get(browser, "/readyz") == (200, "ok\n")


async def test_metrics(browser: ClientSession, truth: Truth) -> None:
    """Prometheus gets its text format, unchanged, and knows it by the content type."""
    truth.metrics = b'datafile_sidecar_revision{sdk_key="KEY1"} 43.0\n'
    async with browser.get("/metrics") as answer:
        assert await answer.read() == truth.metrics
        assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"


async def test_status(browser: ClientSession, truth: Truth) -> None:
    """`/status` is JSON, with null where there is nothing."""
    truth.status = {"version": "1", "keys": {"KEY1": {"revision": None, "last_error": "é <b>"}}}
    status, text = await get(browser, "/status")
    assert (status, json.loads(text)) == (200, truth.status)


async def test_any_text(browser: ClientSession, truth: Truth) -> None:
    """A path or an error with bytes that are not UTF-8 breaks neither probe nor status: they are needed then."""
    problem = "/volume/\udce9 can't be written\r\n\x00"
    truth.unready, truth.stuck, truth.status = {"KEY1": problem}, [problem], {"last_error": problem}
    assert (await get(browser, "/readyz"))[0] == 503
    assert (await get(browser, "/livez"))[0] == 503
    assert json.loads((await get(browser, "/status"))[1]) == truth.status


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics", "/status"])
async def test_shows_only(browser: ClientSession, path: str) -> None:
    """Nothing can be changed here: only GET and HEAD are answered."""
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        async with browser.request(method, path, data=b"x") as answer:
            assert answer.status == 405
    async with browser.head(path) as answer:
        assert answer.status == 200


async def test_nothing_else(browser: ClientSession) -> None:
    """The webhook endpoint is not on this port, nor is anything that is not documented."""
    for path in ("/webhooks/optimizely", "/livez/", "/debug", "/status/../x"):
        async with browser.post(path) as answer:
            assert answer.status == 404


async def test_a_long_scrape_holds_up_nothing(browser: ClientSession, truth: Truth) -> None:
    """With many keys the metrics take a while to write: probes are answered meanwhile, and scrapers share one run."""
    may_end, runs = threading.Event(), []

    def slow() -> bytes:
        runs.append(may_end.wait(30))
        return b"# slow\n"

    truth.scrape = slow
    scrapes = [asyncio.create_task(get(browser, "/metrics")) for _ in range(5)]
    assert await get(browser, "/livez") == (200, "ok\n")
    assert not any(scrape.done() for scrape in scrapes)
    may_end.set()
    assert await asyncio.gather(*scrapes) == [(200, "# slow\n")] * 5
    assert 1 <= len(runs) < 5
    truth.scrape = lambda: b"# later\n"
    assert await get(browser, "/metrics") == (200, "# later\n")
