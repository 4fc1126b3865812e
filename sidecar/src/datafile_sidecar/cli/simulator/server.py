"""Optimizely's file servers, CDN and origin, on one real socket."""

import asyncio
import gzip
import hashlib
import json
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Literal, Self, Unpack

from aiohttp import ClientSession, ETag, TCPConnector, web

from .events import TIMEOUT, EventFields, post, webhook_body

_PROJECT_ID = re.compile(rb'"projectId"\s*:\s*"([0-9]+)"')
_PATH = re.compile(r"/(?P<origin>origin/)?datafiles/(?P<auth>auth/)?(?P<sdk_key>[^/]+)\.json")


@dataclass(slots=True)
class DatafileRequest:
    """A request that the simulator got. `at` is on the monotonic clock, in seconds; `status` is None until the answer.

    `sdk_key` is empty where the path asks for no datafile.
    """

    source: Literal["cdn", "origin"]
    sdk_key: str
    path: str
    conditional: bool
    at: float
    status: int | None = None
    authorization: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class _Version:
    body: bytes
    gzipped: bytes
    digest: str
    modified: datetime


class _Shelf:
    """What one file server shows. It goes on showing what it has for `lag_s` after something newer was put."""

    def __init__(self, shown: Mapping[str, _Version]) -> None:
        self._shown = dict(shown)
        self._coming: list[tuple[float, str, _Version]] = []

    def put(self, sdk_key: str, version: _Version, lag_s: float) -> None:
        self._coming.append((time.monotonic(), sdk_key, version))
        self._settle(lag_s)

    def get(self, sdk_key: str, lag_s: float) -> _Version | None:
        self._settle(lag_s)
        return self._shown.get(sdk_key)

    def _settle(self, lag_s: float) -> None:
        ripe = time.monotonic() - lag_s
        self._shown |= {sdk_key: version for at, sdk_key, version in self._coming if at <= ripe}
        self._coming = [coming for coming in self._coming if coming[0] > ripe]


class Simulator:
    """Optimizely's CDN, its origin and the sender of its webhooks: an async context manager on a real socket.

    May be changed at any time: `cdn_lag_s` and `origin_lag_s` (for what is not shown yet), `webhook_urls`, `secret`
    (None signs nothing), `access_tokens` (by SDK key; such a datafile wants `Authorization: Bearer <token>`), and
    `answer`: it is asked before each answer and may give a wrong one, or None for the true one.
    """

    def __init__(
        self,
        datafiles: Mapping[str, bytes],
        *,
        listen: tuple[str | None, int] = ("127.0.0.1", 0),
        secret: bytes | None,
        webhook_urls: Sequence[str] = (),
        cdn_lag_s: float = 0,
        origin_lag_s: float = 0,
    ) -> None:
        self.url = ""
        self.requests: list[DatafileRequest] = []
        self.secret = secret
        self.webhook_urls = list(webhook_urls)
        self.cdn_lag_s = cdn_lag_s
        self.origin_lag_s = origin_lag_s
        self.access_tokens: dict[str, str] = {}
        self.answer: Callable[[web.Request], Awaitable[web.StreamResponse | None]] | None = None
        self._listen = listen
        self._project_ids: dict[str, int] = {}
        self._modified = datetime.min.replace(tzinfo=UTC)
        shown = {sdk_key: self._version(sdk_key, body) for sdk_key, body in datafiles.items()}
        self._cdn, self._origin = _Shelf(shown), _Shelf(shown)
        self._stack = AsyncExitStack()

    @property
    def template(self) -> str:
        """What DATAFILE_URL_TEMPLATE takes."""
        return f"{self.url}/datafiles/{{sdk_key}}.json"

    @property
    def auth_template(self) -> str:
        """What DATAFILE_URL_TEMPLATE takes for a secure environment."""
        return f"{self.url}/datafiles/auth/{{sdk_key}}.json"

    def put(self, sdk_key: str, body: bytes) -> None:
        """Let CDN and origin serve a new datafile, each after its lag. Nobody is told."""
        version = self._version(sdk_key, body)
        self._cdn.put(sdk_key, version, self.cdn_lag_s)
        self._origin.put(sdk_key, version, self.origin_lag_s)

    async def announce(self, sdk_key: str, revision: int, **overrides: Unpack[EventFields]) -> int:
        """Post the signed event to every webhook URL; the highest status of the answers, 0 where nobody is to be told.

        It names the datafile's own project, now, and the simulator's URLs, unless overridden.
        Raises aiohttp's `ClientError` or `TimeoutError` when one cannot be reached or does not answer within 10 s.
        """
        fields: EventFields = {
            "project_id": self._project_ids.get(sdk_key),
            "timestamp": int(time.time()),
            "origin_url": f"{self.url}/origin/datafiles/{sdk_key}.json",
            "cdn_url": f"{self.url}/datafiles/{sdk_key}.json",
        }
        fields.update(overrides)
        body = webhook_body(revision, **fields)
        posts = (post(self._session, url, body, self.secret) for url in self.webhook_urls)
        return max(await asyncio.gather(*posts), default=0)

    async def publish(self, sdk_key: str, body: bytes, **overrides: Unpack[EventFields]) -> int:
        """Put a datafile and announce its revision, as Optimizely does when somebody flips a flag."""
        self.put(sdk_key, body)
        return await self.announce(sdk_key, int(json.loads(body)["revision"]), **overrides)

    async def __aenter__(self) -> Self:
        application = web.Application()
        application.router.add_get("/{path:.*}", self._serve)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(runner.cleanup)
            # A connection for each webhook: one that is kept can be closed by the other end at the very moment of the next.
            session = ClientSession(connector=TCPConnector(force_close=True), timeout=TIMEOUT)
            self._session = await stack.enter_async_context(session)
            await runner.setup()
            host, port = self._listen
            await web.TCPSite(runner, host, port).start()
            self._stack = stack.pop_all()
        bound_host, bound_port, *_ = runner.addresses[0]
        self.url = f"http://{_reachable(bound_host)}:{bound_port}"
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._stack.aclose()

    def _version(self, sdk_key: str, body: bytes) -> _Version:
        if project_id := _PROJECT_ID.search(body):
            self._project_ids[sdk_key] = int(project_id[1])
        # HTTP dates have whole seconds. Each version is a second younger than the one before, or two flips within a
        # second would be the same to a client that knows dates only, such as the SDK's own poller.
        self._modified = max(self._modified + timedelta(seconds=1), datetime.now(UTC).replace(microsecond=0))
        return _Version(body, gzip.compress(body, 6), hashlib.sha256(body).hexdigest()[:32], self._modified)

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        asked = _asked(request)
        self.requests.append(asked)
        wrong = await self.answer(request) if self.answer else None
        response = self._true_answer(request, asked) if wrong is None else wrong
        asked.status = response.status
        return response

    def _true_answer(self, request: web.Request, asked: DatafileRequest) -> web.Response:
        token = self.access_tokens.get(asked.sdk_key)
        secure = token is not None or "/auth/" in asked.path
        if secure and (token is None or asked.authorization != f"Bearer {token}"):
            return web.Response(status=403, text="this datafile wants its access token\n")
        shelf, lag_s = (self._cdn, self.cdn_lag_s) if asked.source == "cdn" else (self._origin, self.origin_lag_s)
        version = shelf.get(asked.sdk_key, lag_s)
        if version is None:
            return web.Response(status=403 if asked.sdk_key else 404, text="no such datafile\n")
        return _answer_with(version, request)


def _asked(request: web.Request) -> DatafileRequest:
    match = _PATH.fullmatch(request.path)
    return DatafileRequest(
        source="origin" if match and match["origin"] else "cdn",
        sdk_key=match["sdk_key"] if match else "",
        path=request.path,
        conditional="If-None-Match" in request.headers or "If-Modified-Since" in request.headers,
        at=time.monotonic(),
        authorization=request.headers.get("Authorization"),
    )


def _answer_with(version: _Version, request: web.Request) -> web.Response:
    zipped = "gzip" in request.headers.get("Accept-Encoding", "")
    if _unchanged(version, request):
        response = web.Response(status=304)
    else:
        response = web.Response(body=version.gzipped if zipped else version.body, content_type="application/json")
        if zipped:
            response.headers["Content-Encoding"] = "gzip"
    response.headers["Vary"] = "Accept-Encoding"
    response.etag = ETag(version.digest, is_weak=zipped)
    response.last_modified = version.modified
    return response


def _unchanged(version: _Version, request: web.Request) -> bool:
    if request.if_none_match is not None:
        return any(etag.value in {version.digest, "*"} for etag in request.if_none_match)
    return request.if_modified_since is not None and version.modified <= request.if_modified_since


def _reachable(host: str) -> str:
    address = ip_address(host)
    if address.version == 6:
        return "[::1]" if address.is_unspecified else f"[{host}]"
    return "127.0.0.1" if address.is_unspecified else host
