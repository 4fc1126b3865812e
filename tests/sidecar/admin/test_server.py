"""The admin port over a real socket: what probes, Prometheus and people get."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import ClientSession

from datafile_sidecar.admin.server import Admin
from datafile_sidecar.network.change_signal import ChangeSignal
from datafile_sidecar.network.server import bind, serving


@dataclass
class Truth:
    """What the sidecar would say of itself."""

    stuck: list[str] = field(default_factory=list)
    unready: dict[str, str] = field(default_factory=dict)
    status: dict[str, Any] = field(default_factory=dict)
    metrics: bytes = b"# nothing\n"
    scrape: Callable[[], bytes] | None = None
    changes: ChangeSignal = field(default_factory=ChangeSignal)


@pytest.fixture
def truth() -> Truth:
    return Truth()


@pytest.fixture
async def browser(truth: Truth) -> AsyncIterator[ClientSession]:
    async def status() -> dict[str, Any]:
        return truth.status

    def metrics() -> bytes:
        return truth.scrape() if truth.scrape else truth.metrics

    admin = Admin(lambda: truth.stuck, lambda: truth.unready, status, metrics, truth.changes)
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
    assert (status, json.loads(text)) == (200, {**truth.status, "status_version": truth.changes.version})


async def test_any_text(browser: ClientSession, truth: Truth) -> None:
    """A path or an error with bytes that are not UTF-8 breaks neither probe nor status: they are needed then."""
    problem = "/volume/\udce9 can't be written\r\n\x00"
    truth.unready, truth.stuck, truth.status = {"KEY1": problem}, [problem], {"last_error": problem}
    assert (await get(browser, "/readyz"))[0] == 503
    assert (await get(browser, "/livez"))[0] == 503
    assert json.loads((await get(browser, "/status"))[1])["last_error"] == problem


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


async def held(browser: ClientSession, after: object, wait: object = 30) -> int:
    """Ask for the status once it is not of this version any more, and return its version."""
    async with browser.get("/status", params={"after": str(after), "wait": str(wait)}) as answer:
        assert answer.status == 200
        version: int = (await answer.json())["status_version"]
        return version


async def is_answered(task: asyncio.Task[int], within_s: float) -> bool:
    done, _ = await asyncio.wait([task], timeout=within_s)
    return bool(done)


async def test_a_held_request_is_answered_at_the_next_change(browser: ClientSession, truth: Truth) -> None:
    """Who waits for a worker gets the answer when there is something new, and the newest of what comes together."""
    version = truth.changes.version
    asked = asyncio.create_task(held(browser, version))
    assert not await is_answered(asked, 0.5)
    truth.changes.notify()
    truth.changes.notify()
    assert await asked == version + 2
    began = time.monotonic()
    assert await held(browser, version + 2, 1) == version + 2
    assert time.monotonic() - began >= 0.9


@pytest.mark.parametrize("wait", ["", "0", "-1", "1.5", "soon", "\u0663", "9" * 7])
async def test_a_request_that_does_not_ask_well_is_answered_at_once(
    browser: ClientSession, truth: Truth, wait: str
) -> None:
    """A mistake costs nobody a slot, nor a wait."""
    async with asyncio.timeout(10):
        assert await held(browser, truth.changes.version, wait) == truth.changes.version
        assert await held(browser, truth.changes.version - 1) == truth.changes.version
        assert await held(browser, "1b") == truth.changes.version


async def test_only_so_many_requests_are_held(browser: ClientSession, truth: Truth) -> None:
    """The 33rd is answered at once, so that it polls; when one of the others has its answer, another may wait."""
    version = truth.changes.version
    waiting = [asyncio.create_task(held(browser, version)) for _ in range(32)]
    short = asyncio.create_task(held(browser, version, 1))
    await asyncio.sleep(0.3)
    answered = [task for task in [*waiting, short] if task.done()]
    assert len(answered) == 1, "all but one are held"
    truth.changes.notify()
    assert set(await asyncio.gather(*waiting)) <= {version, version + 1}
    again = asyncio.create_task(held(browser, version + 1))
    assert not await is_answered(again, 0.3)
    truth.changes.notify()
    await again
