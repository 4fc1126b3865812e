"""The admin port: what probes, Prometheus and people ask. It only shows; nothing can be changed here."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from datafile_sidecar.admin.page import page

_EXPOSITION = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Admin:
    """The admin endpoints. Each callable gives what is true now.

    `stuck` names the loops that don't turn, `unready` says for each SDK key without a valid file why (and of a stopping sidecar
    that it stops), `status` is the object of `/status`, `metrics` the text of `/metrics`.
    """

    stuck: Callable[[], list[str]]
    unready: Callable[[], Mapping[str, str]]
    status: Callable[[], dict[str, Any]]
    metrics: Callable[[], bytes]

    def app(self) -> web.Application:
        """An application with these endpoints."""
        app = web.Application()
        app.router.add_get("/livez", self.livez)
        app.router.add_get("/readyz", self.readyz)
        app.router.add_get("/metrics", self.get_metrics)
        app.router.add_get("/status", self.get_status)
        app.router.add_get("/", self.get_page)
        return app

    async def livez(self, _: web.Request) -> web.Response:
        """200 while every loop turns, whatever upstream does; else 503 and which does not."""
        stuck = self.stuck()
        return _probe("".join(f"{name} is stuck\n" for name in stuck))

    async def readyz(self, _: web.Request) -> web.Response:
        """200 when there is a valid file for every key; else 503 and which is missing, and why."""
        unready = self.unready()
        return _probe("".join(f"{name}: {reason}\n" for name, reason in unready.items()))

    async def get_metrics(self, _: web.Request) -> web.Response:
        """Prometheus' text format."""
        return web.Response(body=self.metrics(), headers={"Content-Type": _EXPOSITION})

    async def get_status(self, _: web.Request) -> web.Response:
        """JSON; `docs/contract.md` describes it."""
        return web.Response(body=json.dumps(self.status()).encode(), content_type="application/json")

    async def get_page(self, _: web.Request) -> web.Response:
        """The same as `/status`, for a person; it refreshes itself."""
        body, headers = page()
        return web.Response(body=body, headers=headers)


def _probe(complaint: str) -> web.Response:
    # Paths may hold bytes that are no UTF-8; a probe must not fail over them.
    text = (complaint or "ok\n").encode(errors="backslashreplace")
    return web.Response(status=503 if complaint else 200, body=text, content_type="text/plain", charset="utf-8")
