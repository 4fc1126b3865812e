"""Optimizely's file servers, CDN and origin, on a real socket."""

import asyncio
import gzip
import hashlib
import json
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal, Self

from aiohttp import ETag, web
from yarl import URL

from datafile_sidecar.cli.simulator.events import Answer, post, webhook_body

_PROJECT_ID = re.compile(rb'"projectId"\s*:\s*"([0-9]+)"')
_PATH = re.compile(r"/(?P<origin>origin/)?datafiles/(?P<auth>auth/)?(?P<sdk_key>[^/]+)\.json")


@dataclass(slots=True)
class DatafileRequest:
    """A request to the simulator.

    `at` is in seconds of the monotonic clock. `status` is None until the answer. `sdk_key` is empty when the path is
    not that of a datafile.
    """

    source: Literal["cdn", "origin"]
    sdk_key: str
    path: str
    conditional: bool
    at: float
    status: int | None = None
    authorization: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class _ServedDatafile:
    body: bytes
    gzipped: bytes
    digest: str
    modified: datetime


class _FileServer:
    """One file server. It goes on serving the previous datafile for `lag_s` after a newer one was put."""

    def __init__(self, served: Mapping[str, _ServedDatafile]) -> None:
        self._served = dict(served)
        self._pending: list[tuple[float, str, _ServedDatafile]] = []

    def put(self, sdk_key: str, datafile: _ServedDatafile, lag_s: float) -> None:
        self._pending.append((time.monotonic(), sdk_key, datafile))
        self._advance(lag_s)

    def get(self, sdk_key: str, lag_s: float) -> _ServedDatafile | None:
        self._advance(lag_s)
        return self._served.get(sdk_key)

    def _advance(self, lag_s: float) -> None:
        due = time.monotonic() - lag_s
        self._served |= {sdk_key: datafile for at, sdk_key, datafile in self._pending if at <= due}
        self._pending = [pending for pending in self._pending if pending[0] > due]


class Simulator:
    """Optimizely's CDN, its origin and the sender of its webhooks: an async context manager on a real socket.

    These attributes may be changed at any time: `cdn_lag_s` and `origin_lag_s` (for datafiles not served yet),
    `webhook_urls`, `secret` (None: unsigned), `access_tokens` (by SDK key; such a datafile requires
    `Authorization: Bearer <token>`), and `answer`, which is called for each request and returns a response, or None for
    the usual one. `routes` are served beside the datafiles.
    """

    def __init__(
        self,
        datafiles: Mapping[str, bytes],
        *,
        listen: tuple[str | None, int] = ("127.0.0.1", 0),
        secret: bytes | None,
        routes: Iterable[web.RouteDef] = (),
    ) -> None:
        self.url = ""
        self.requests: list[DatafileRequest] = []
        self.secret = secret
        self.webhook_urls: list[str] = []
        self.cdn_lag_s = 0.0
        self.origin_lag_s = 0.0
        self.access_tokens: dict[str, str] = {}
        self.answer: Callable[[web.Request], Awaitable[web.StreamResponse | None]] | None = None
        self._listen = listen
        self._routes = tuple(routes)
        self._project_ids: dict[str, int] = {}
        self._modified = datetime.min.replace(tzinfo=UTC)
        served = {sdk_key: self._datafile(sdk_key, body) for sdk_key, body in datafiles.items()}
        self._cdn, self._origin = _FileServer(served), _FileServer(served)

    @property
    def template(self) -> str:
        """A value for DATAFILE_URL_TEMPLATE."""
        return f"{self.url}/datafiles/{{sdk_key}}.json"

    @property
    def auth_template(self) -> str:
        """A value for DATAFILE_URL_TEMPLATE for a secure environment."""
        return f"{self.url}/datafiles/auth/{{sdk_key}}.json"

    def put(self, sdk_key: str, body: bytes) -> None:
        """Let CDN and origin serve a new datafile, each after its lag. Posts no webhook."""
        datafile = self._datafile(sdk_key, body)
        self._cdn.put(sdk_key, datafile, self.cdn_lag_s)
        self._origin.put(sdk_key, datafile, self.origin_lag_s)

    async def announce(self, sdk_key: str, revision: int) -> int:
        """Do what `post` does, and return the status of that answer."""
        return (await self.post(sdk_key, revision)).status

    async def post(self, sdk_key: str, revision: int) -> Answer:
        """Post the signed event to every webhook URL.

        The event has the project of the datafile, the current time and the simulator's URLs.

        Returns:
            The answer with the highest status; status 0 without webhook URLs.

        Raises:
            ClientError: a receiver can't be reached.
            TimeoutError: a receiver does not answer within 10 s.
        """
        body = webhook_body(
            revision,
            project_id=self._project_ids.get(sdk_key),
            timestamp=int(time.time()),
            origin_url=f"{self.url}/origin/datafiles/{sdk_key}.json",
            cdn_url=f"{self.url}/datafiles/{sdk_key}.json",
        )
        posts = (post(url, body, self.secret) for url in self.webhook_urls)
        return max(await asyncio.gather(*posts), default=Answer(0), key=lambda answer: answer.status)

    async def publish(self, sdk_key: str, body: bytes) -> int:
        """Put a datafile and announce its revision, as Optimizely does when a flag is changed."""
        self.put(sdk_key, body)
        return await self.announce(sdk_key, int(json.loads(body)["revision"]))

    async def __aenter__(self) -> Self:
        application = web.Application()
        application.router.add_routes(self._routes)
        application.router.add_get("/{path:.*}", self._serve)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        host, port = self._listen
        await web.TCPSite(self._runner, host, port).start()
        host, port, *_ = self._runner.addresses[0]
        reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
        self.url = str(URL.build(scheme="http", host=reachable, port=port))
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._runner.cleanup()

    def _datafile(self, sdk_key: str, body: bytes) -> _ServedDatafile:
        if project_id := _PROJECT_ID.search(body):
            self._project_ids[sdk_key] = int(project_id[1])
        # HTTP dates have whole seconds. Each datafile is a second newer than the previous one, so that clients that
        # compare dates only, such as the SDK's poller, notice two changes within a second.
        self._modified = max(self._modified + timedelta(seconds=1), datetime.now(UTC).replace(microsecond=0))
        return _ServedDatafile(body, gzip.compress(body, 6), hashlib.sha256(body).hexdigest()[:32], self._modified)

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        recorded = _recorded(request)
        self.requests.append(recorded)
        override = await self.answer(request) if self.answer else None
        response = self._response(request, recorded) if override is None else override
        recorded.status = response.status
        return response

    def _response(self, request: web.Request, recorded: DatafileRequest) -> web.Response:
        token = self.access_tokens.get(recorded.sdk_key)
        secure = token is not None or "/auth/" in recorded.path
        if secure and (token is None or recorded.authorization != f"Bearer {token}"):
            return web.Response(status=403, text="this datafile requires its access token\n")
        server, lag_s = (self._cdn, self.cdn_lag_s) if recorded.source == "cdn" else (self._origin, self.origin_lag_s)
        datafile = server.get(recorded.sdk_key, lag_s)
        if datafile is None:
            return web.Response(status=403 if recorded.sdk_key else 404, text="no such datafile\n")
        return _datafile_response(datafile, request)


def _recorded(request: web.Request) -> DatafileRequest:
    match = _PATH.fullmatch(request.path)
    return DatafileRequest(
        source="origin" if match and match["origin"] else "cdn",
        sdk_key=match["sdk_key"] if match else "",
        path=request.path,
        conditional="If-None-Match" in request.headers or "If-Modified-Since" in request.headers,
        at=time.monotonic(),
        authorization=request.headers.get("Authorization"),
    )


def _datafile_response(datafile: _ServedDatafile, request: web.Request) -> web.Response:
    zipped = "gzip" in request.headers.get("Accept-Encoding", "")
    if _is_unchanged(datafile, request):
        response = web.Response(status=304)
    else:
        response = web.Response(body=datafile.gzipped if zipped else datafile.body, content_type="application/json")
        if zipped:
            response.headers["Content-Encoding"] = "gzip"
    response.headers["Vary"] = "Accept-Encoding"
    response.etag = ETag(datafile.digest, is_weak=zipped)
    response.last_modified = datafile.modified
    return response


def _is_unchanged(datafile: _ServedDatafile, request: web.Request) -> bool:
    if request.if_none_match is not None:
        return any(etag.value in {datafile.digest, "*"} for etag in request.if_none_match)
    return request.if_modified_since is not None and datafile.modified <= request.if_modified_since
