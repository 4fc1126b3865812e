"""The admin port: probes, metrics, status and the status page. It is read-only."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
from aiohttp import web

from datafile_sidecar.admin import page
from datafile_sidecar.network.change_signal import ChangeSignal
from datafile_sidecar.network.single_flight import SingleFlight

_MAX_HELD = 32
_HELD_MAX_S = 30
_COLLECT_S = 0.01  # changes that come together, as those of a pod's workers, are answered together


@dataclass(slots=True)
class Admin:
    """The admin endpoints. Each callable returns the state at the moment of the call.

    Args:
        stuck: Names the loops that no longer run.
        unready: Maps what keeps the sidecar from being ready (an SDK key without a valid file, or its stopping) to the reason.
        status: Returns the object of `/status`.
        metrics: Returns the text of `/metrics`. It is called in a thread, since it takes long with many keys.
        changes: Notes each change of the status that a request may wait for.
    """

    stuck: Callable[[], list[str]]
    unready: Callable[[], Mapping[str, str]]
    status: Callable[[], Awaitable[dict[str, Any]]]
    metrics: Callable[[], bytes]
    changes: ChangeSignal
    _held: int = field(default=0, init=False)
    _scrape: SingleFlight[bytes] = field(init=False)

    def __post_init__(self) -> None:
        self._scrape = SingleFlight(self.metrics, "metrics")

    def app(self) -> web.Application:
        """Create an application with these endpoints."""
        app = web.Application()
        app.router.add_get("/livez", self.livez)
        app.router.add_get("/readyz", self.readyz)
        app.router.add_get("/metrics", self.get_metrics)
        app.router.add_get("/status", self.get_status)
        app.router.add_get("/", self.get_page)
        return app

    async def livez(self, _: web.Request) -> web.Response:
        """Answer 200 while every loop runs, whatever upstream does; else 503 and the loops that are stuck."""
        return _probe("".join(f"{name} is stuck\n" for name in self.stuck()))

    async def readyz(self, _: web.Request) -> web.Response:
        """Answer 200 when every key has a valid file; else 503 and what is missing, and why."""
        return _probe("".join(f"{name}: {reason}\n" for name, reason in self.unready().items()))

    async def get_metrics(self, _: web.Request) -> web.Response:
        """Answer with the metrics in Prometheus' text format. Requests at the same time get the same answer."""
        headers = {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        return web.Response(body=await self._scrape.result(), headers=headers)

    async def get_status(self, request: web.Request) -> web.Response:
        """Answer with the status as JSON, which `docs/contract.md` describes; where asked to, only once it has changed."""
        wait_s = _wait_s(request)
        if wait_s and self._held < _MAX_HELD and request.query.get("after") == str(self.changes.version):
            await self._hold(wait_s)
        version = self.changes.version  # before the status, which may change while it is put together
        return web.Response(
            body=_json({**await self.status(), "status_version": version}), content_type="application/json"
        )

    async def _hold(self, wait_s: int) -> None:
        self._held += 1
        try:
            await self.changes.wait(self.changes.version, wait_s)
            await asyncio.sleep(_COLLECT_S)
        finally:
            self._held -= 1

    async def get_page(self, _: web.Request) -> web.Response:
        """Answer with the page that shows `/status` and refreshes itself."""
        return web.Response(body=page.BODY, headers=page.HEADERS)


def _wait_s(request: web.Request) -> int:
    """Return for how many seconds the request may be held open, 0 where it does not say so in decimal digits."""
    text = request.query.get("wait", "")
    return min(int(text), _HELD_MAX_S) if text.isascii() and text.isdigit() and len(text) <= 6 else 0


def _json(status: dict[str, Any]) -> bytes:
    try:
        return msgspec.json.encode(status)
    except UnicodeEncodeError:  # a path with bytes that are not UTF-8
        return json.dumps(status).encode()


def _probe(problems: str) -> web.Response:
    # Paths may contain bytes that are not UTF-8; a probe must not fail because of them.
    text = (problems or "ok\n").encode(errors="backslashreplace")
    return web.Response(status=503 if problems else 200, body=text, content_type="text/plain", charset="utf-8")
