"""A webhook endpoint and a datafile, for the tests of the simulator and its commands."""

import json

from aiohttp import web

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


def announced(body: bytes) -> tuple[str, ...]:
    event = webhook.parse(body)
    assert isinstance(event, webhook.DatafileUpdated)
    ours = webhook.Environment("777")
    return webhook.attribute(event, {KEY: ours, "OTHER": ours}).announced
