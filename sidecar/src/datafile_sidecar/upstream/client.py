"""One conditional, capped, timed request for a datafile, redirects followed where that is permitted."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from datafile_sidecar.core import answer, sources
from datafile_sidecar.core.fetch_error import FetchError, proxy_refused, refused, unwelcome
from datafile_sidecar.core.proxies import Proxies, ProxyError
from datafile_sidecar.network.resolver import DaemonResolver
from datafile_sidecar.upstream.errors import diagnosis, speakable
from datafile_sidecar.upstream.response import Response, received
from datafile_sidecar.upstream.tls import Trust

MAX_TIMEOUT_S = 30.0
_MAX_HOPS = 4
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True, slots=True)
class Validators:
    """What makes the next request for `url` conditional. To be remembered only once the body has been published."""

    url: str
    etag: str | None
    last_modified: str | None


@dataclass(frozen=True, slots=True)
class Fetched:
    """A complete body, decompressed, at most 8 MiB. `validators` name the URL that answered, redirects followed."""

    body: bytes = field(repr=False)
    validators: Validators | None


@dataclass(frozen=True, slots=True)
class NotModified:
    """Upstream still has the body that the validators belong to."""


class Upstream:
    """Fetches datafiles; an async context manager that owns its connections. One serves any number of SDK keys."""

    def __init__(
        self,
        *,
        template: str,
        timeout_s: float = 10.0,
        environ: Mapping[str, str] | None = None,
        user_agent: str = "datafile-sidecar",
        resolver: AbstractResolver | None = None,
    ) -> None:
        """`template` holds `{sdk_key}` (ValueError when it is no URL); `timeout_s` is for a whole fetch, at most 30.

        `environ` gives the proxies (`HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY`) and `SSL_CERT_FILE`.
        """
        self._sources = sources.Sources(template)
        self._timeout_s = min(timeout_s, MAX_TIMEOUT_S)
        self._environ = dict(environ or {})
        self._proxies = Proxies.from_environ(self._environ)
        self._headers = {"Accept-Encoding": "gzip", "User-Agent": user_agent}
        self._resolver = resolver
        self._trust = Trust(self._environ.get("SSL_CERT_FILE"))
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        """Open no connection yet: the first fetch does."""
        # No DNS cache: names are looked up for new connections alone, which are few, and failover wants the present answer.
        connector = aiohttp.TCPConnector(
            limit_per_host=8, use_dns_cache=False, resolver=self._resolver or DaemonResolver(), keepalive_timeout=30
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            response_class=Response,
            headers=self._headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),  # one deadline, over all hops, in `fetch`
        )
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Drop the connections, also those that hang."""
        if self._session is not None:
            await self._session.close()

    def url(self, sdk_key: str) -> str:
        """The configured URL of this key's datafile."""
        return self._sources.url(sdk_key)

    def permitted(self, url: str, sdk_key: str) -> bool:
        """Whether a URL from a webhook may be fetched for this key: our hosts over https or the template's origin, our key."""
        return self._sources.permits(url, sdk_key)

    async def fetch(
        self, url: str, *, sdk_key: str, validators: Validators | None = None, token: str | None = None
    ) -> Fetched | NotModified:
        """Ask `url` for the key's datafile, following permitted redirects; FetchError for everything else.

        `validators` are sent to the URL that they belong to, `token` to the template's origin, and neither anywhere else.
        """
        self._opened()
        trail = [url]
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._follow(trail, sdk_key, validators, token)
        except FetchError:
            raise
        except Exception as error:
            raise self._explained(error, trail[-1]) from speakable(error)

    async def _follow(
        self, trail: list[str], sdk_key: str, validators: Validators | None, token: str | None
    ) -> Fetched | NotModified:
        """Ask the URL at the end of the trail, and lengthen the trail for each redirect."""
        while len(trail) <= _MAX_HOPS:
            hop = trail[-1]
            if not self.permitted(hop, sdk_key):
                raise refused(trail[0], hop)
            found = await self._ask(hop, validators, token if self._sources.is_home(hop, sdk_key) else None)
            if not isinstance(found, str):
                return found
            trail.append(found)
        raise FetchError("redirected", f"{sources.shown(trail[0])}: redirected more than {_MAX_HOPS - 1} times")

    async def _ask(self, url: str, validators: Validators | None, token: str | None) -> Fetched | NotModified | str:
        """One request: what it brought, or the URL that it redirects to."""
        conditions = _conditions(url, validators)
        headers = conditions | ({"Authorization": f"Bearer {token}"} if token else {})
        proxy = self._proxies.proxy_for(url)
        introduction = {"Proxy-Authorization": proxy.authorization} if proxy and proxy.authorization else {}
        is_https = url.lower().startswith("https:")
        async with self._opened().get(
            URL(url, encoded=True),
            # Over https the proxy reads the CONNECT alone, without it the request itself.
            headers=headers if is_https else headers | introduction,
            proxy_headers=introduction,
            allow_redirects=False,
            proxy=proxy.url if proxy else None,
            ssl=await self._trust.context() if is_https or (proxy and proxy.url.startswith("https:")) else True,
        ) as response:
            if response.status == 200:
                return Fetched(await received(response), _validators(url, response))
            if response.status == 304 and conditions:
                return NotModified()
            if response.status in _REDIRECTS and (location := response.headers.get("Location")):
                return _next_hop(url, location)
            raise unwelcome(self._where(url), response.status, _retry_after_s(response))

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("Upstream is used outside its `async with`")
        return self._session

    def _explained(self, error: Exception, url: str) -> FetchError:
        """Ours for a foreign one."""
        if isinstance(error, aiohttp.ClientHttpProxyError):
            return proxy_refused(self._where(url), error.status)
        outcome, problem = diagnosis(error, self._timeout_s)
        if outcome == "tls":
            self._trust.doubt()
        return FetchError(outcome, f"{self._where(url)}: {problem}")

    def _where(self, url: str) -> str:
        """Whom we asked, and by which proxy, without anything secret."""
        try:
            proxy = self._proxies.proxy_for(url)
        except ProxyError:
            proxy = None
        return f"{sources.shown(url)} through the proxy {proxy.url}" if proxy else sources.shown(url)


def _conditions(url: str, validators: Validators | None) -> dict[str, str]:
    if validators is None or validators.url != url:
        return {}
    wanted = {"If-None-Match": validators.etag, "If-Modified-Since": validators.last_modified}
    return {name: clean for name, value in wanted.items() if (clean := answer.clean_validator(value))}


def _validators(url: str, response: aiohttp.ClientResponse) -> Validators | None:
    etag = answer.clean_validator(response.headers.get("ETag"))
    last_modified = answer.clean_validator(response.headers.get("Last-Modified"))
    return Validators(url, etag, last_modified) if etag or last_modified else None


def _next_hop(url: str, location: str) -> str:
    target = sources.redirect_target(url, location)
    if sources.is_downgrade(url, target):
        raise refused(url, target)
    return target


def _retry_after_s(response: aiohttp.ClientResponse) -> float | None:
    return answer.retry_after_s(response.headers.get("Retry-After"), response.headers.get("Date"), time.time())
