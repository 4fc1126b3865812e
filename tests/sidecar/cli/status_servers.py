"""Admin ports of other pods, for the tests of `status`."""

import contextlib
import json
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

from aiohttp import web

from datafile_sidecar.network.change_signal import ChangeSignal

KEY = "KEY1"


class Sidecar:
    """The admin port of a pod. Its one worker uses `revision`; `body` replaces the whole answer. With `changes` it tells them."""

    def __init__(self, host: str, revision: int = 43, pod: str | None = None) -> None:
        self.host, self.pod, self.revision = host, pod or f"pod-{host}", revision
        self.file_revision = 43
        self.status, self.body, self.asked, self.port = 200, b"", 0, 0
        self.changes: ChangeSignal | None = None
        self.workers: dict[str, Any] = {}

    async def answer(self, request: web.Request) -> web.Response:
        self.asked += 1
        if self.changes and "wait" in request.query:
            await self.changes.wait(int(request.query["after"]), float(request.query["wait"]))
        worker = {"id": "0a1b2c3d", "pid": 17, "host": "app", "revision": self.revision}
        report = {
            "pod": self.pod,
            "instance": self.pod,
            "keys": {KEY: {"revision": self.file_revision, "target_revision": 43, "workers": [worker]}},
            "workers": {"state": "on", "settled": True, **self.workers},
            **({"status_version": self.changes.version} if self.changes else {}),
        }
        body = self.body or json.dumps(report).encode()
        return web.Response(status=self.status, body=body, headers={"Location": "/status"})


@contextlib.asynccontextmanager
async def listening(*sidecars: Sidecar) -> AsyncIterator[int]:
    """Serve all of them at one port, and yield it."""
    port = 0
    async with contextlib.AsyncExitStack() as stack:
        for sidecar in sidecars:
            app = web.Application()
            app.router.add_get("/status", sidecar.answer)
            runner = web.AppRunner(app, shutdown_timeout=0.1)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, sidecar.host, port).start()
            port = sidecar.port = runner.addresses[0][1]
        yield port


@contextlib.contextmanager
def silent(host: str, port: int) -> Iterator[None]:
    with socket.create_server((host, port)):
        yield
