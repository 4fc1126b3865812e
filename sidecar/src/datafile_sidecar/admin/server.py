"""The admin port: probes, metrics, status and the status page. It is read-only."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
from aiohttp import web

from datafile_sidecar.admin import page
from datafile_sidecar.network.single_flight import SingleFlight


@dataclass(slots=True)
class Admin:
    """The admin endpoints. Each callable returns the state at the moment of the call.

    Args:
        stuck: Names the loops that no longer run.
        unready: Maps what keeps the sidecar from being ready (an SDK key without a valid file, or its stopping) to the reason.
        status: Returns the object of `/status`.
        metrics: Returns the text of `/metrics`. It is called in a thread, since it takes long with many keys.
    """

    stuck: Callable[[], list[str]]
    unready: Callable[[], Mapping[str, str]]
    status: Callable[[], dict[str, Any]]
    metrics: Callable[[], bytes]
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

    async def get_status(self, _: web.Request) -> web.Response:
        """Answer with the status as JSON, which `docs/contract.md` describes."""
        return web.Response(body=_json(self.status()), content_type="application/json")

    async def get_page(self, _: web.Request) -> web.Response:
        """Answer with the page that shows `/status` and refreshes itself."""
        return web.Response(body=page.BODY, headers=page.HEADERS)


def _json(status: dict[str, Any]) -> bytes:
    try:
        return msgspec.json.encode(status)
    except UnicodeEncodeError:  # a path with bytes that are not UTF-8
        return json.dumps(status).encode()


def _probe(problems: str) -> web.Response:
    # Paths may contain bytes that are not UTF-8; a probe must not fail because of them.
    text = (problems or "ok\n").encode(errors="backslashreplace")
    return web.Response(status=503 if problems else 200, body=text, content_type="text/plain", charset="utf-8")
