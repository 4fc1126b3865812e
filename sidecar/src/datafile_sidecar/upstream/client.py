"""The HTTP client: conditional requests for a datafile that follow permitted redirects."""

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Self

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from datafile_sidecar.core import fetch_error, url_policy
from datafile_sidecar.core.conditional import Validators
from datafile_sidecar.core.fetch_error import FetchError
from datafile_sidecar.core.http_headers import clean_validator, retry_after_s
from datafile_sidecar.core.proxies import Proxies, ProxyError
from datafile_sidecar.network.resolver import DaemonResolver
from datafile_sidecar.upstream.body import read_body
from datafile_sidecar.upstream.errors import describe, safe_cause
from datafile_sidecar.upstream.tls import TlsContext

MAX_TIMEOUT_S = 30.0
_MAX_REDIRECTS = 3
_REDIRECT_STATUSES = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True, slots=True)
class Fetched:
    """A complete body, decompressed, at most 8 MiB. `validators` name the URL that answered, after redirects."""

    body: bytes = field(repr=False)
    validators: Validators | None


@dataclass(frozen=True, slots=True)
class NotModified:
    """Upstream still has the body that the validators belong to."""


async def _go_on() -> None:
    """Wait for nothing."""


class Upstream:
    """Fetches datafiles for any number of SDK keys. An async context manager that owns its connections."""

    def __init__(
        self,
        *,
        template: str,
        timeout_s: float = 10.0,
        environ: Mapping[str, str] | None = None,
        user_agent: str = "datafile-sidecar",
        resolver: AbstractResolver | None = None,
    ) -> None:
        """Check the settings.

        Args:
            template: The URL, with `{sdk_key}` in it.
            timeout_s: For a whole fetch with its redirects, at most 30.
            environ: Gives the proxies (`HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY`) and `SSL_CERT_FILE`.
            user_agent: The `User-Agent` header.
            resolver: Resolves host names; by default the operating system does.

        Raises:
            ValueError: The template is not a usable URL.
        """
        self._policy = url_policy.UrlPolicy(template)
        self._timeout_s = min(timeout_s, MAX_TIMEOUT_S)
        environ = environ or {}
        self._proxies = Proxies(environ)
        self._tls = TlsContext(environ.get("SSL_CERT_FILE"))
        self._headers = {"Accept-Encoding": "gzip", "User-Agent": user_agent}
        self._resolver = resolver
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        """Create the session. The first fetch opens the first connection."""
        # No DNS cache: only new connections need a lookup, they are few, and failover needs current addresses.
        # No limit: waiting for a connection would look like a delay of upstream, so the callers take turns instead.
        connector = aiohttp.TCPConnector(
            limit=0, use_dns_cache=False, resolver=self._resolver or DaemonResolver(), keepalive_timeout=30
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            headers=self._headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),  # `fetch` has one timeout for everything
        )
        return self

    async def __aexit__(self, *exception: object) -> None:
        """Close all connections, including those that hang."""
        await self._open_session().close()

    def url(self, sdk_key: str) -> str:
        """Return the configured URL of this key's datafile."""
        return self._policy.url(sdk_key)

    def permitted(self, url: str, sdk_key: str) -> bool:
        """Return whether a URL from a webhook may be fetched for this key (see `core.url_policy`)."""
        return self._policy.permits(url, sdk_key)

    async def fetch(
        self,
        url: str,
        *,
        sdk_key: str,
        validators: Validators | None = None,
        token: str | None = None,
        on_large: Callable[[], Awaitable[object]] = _go_on,
    ) -> Fetched | NotModified:
        """Fetch the key's datafile from `url`, following permitted redirects.

        Args:
            url: Where to start.
            sdk_key: The key that every URL on the way must belong to.
            validators: Sent only to the URL that they belong to.
            token: Access token, sent only to the template's origin.
            on_large: Awaited when the body becomes large. The timeout does not run meanwhile.

        Raises:
            FetchError: Anything else came, or nothing within the timeout.
        """
        self._open_session()
        if not self.permitted(url, sdk_key):
            raise fetch_error.url_refused(url)
        target, deadline = url, asyncio.get_running_loop().time() + self._timeout_s
        for _ in range(_MAX_REDIRECTS + 1):
            is_template_origin = self._policy.is_template_origin(target, sdk_key)
            try:
                async with asyncio.timeout_at(deadline) as limit:
                    pause = functools.partial(_pause, limit, on_large)
                    result = await self._request(target, validators, token if is_template_origin else None, pause)
            except FetchError:
                raise
            except Exception as error:
                raise self._to_fetch_error(error, target) from safe_cause(error)
            if not isinstance(result, str):
                return result
            if url_policy.is_downgrade(target, result) or not self.permitted(result, sdk_key):
                raise fetch_error.redirect_refused(url, result)
            target = result
        shown = url_policy.without_query(url)
        raise FetchError("redirected", f"{shown}: redirected more than {_MAX_REDIRECTS} times")

    async def _request(
        self, url: str, validators: Validators | None, token: str | None, on_large: Callable[[], Awaitable[None]]
    ) -> Fetched | NotModified | str:
        """Make one request. A string is the URL that it redirects to."""
        condition = _conditional_headers(url, validators)
        headers = condition | ({"Authorization": f"Bearer {token}"} if token else {})
        proxy = self._proxies.proxy_for(url)
        proxy_headers = {"Proxy-Authorization": proxy.authorization} if proxy and proxy.authorization else {}
        is_https = url.lower().startswith("https:")
        needs_tls = is_https or (proxy is not None and proxy.url.startswith("https:"))
        async with self._open_session().get(
            URL(url, encoded=True),
            # Over https the proxy sees only the CONNECT, otherwise it sees the request itself.
            headers=headers if is_https else headers | proxy_headers,
            proxy_headers=proxy_headers,
            allow_redirects=False,
            proxy=proxy.url if proxy else None,
            ssl=await self._tls.get() if needs_tls else True,
        ) as response:
            if response.status == 200:
                return Fetched(await read_body(response, on_large), _validators(url, response))
            if response.status == 304 and condition:
                return NotModified()
            if response.status in _REDIRECT_STATUSES and (location := response.headers.get("Location")):
                return url_policy.redirect_target(url, location)
            raise fetch_error.unexpected_status(self._target(url), response.status, _retry_after_s(response))

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("Upstream is used outside its `async with`")
        return self._session

    def _to_fetch_error(self, error: Exception, url: str) -> FetchError:
        if isinstance(error, aiohttp.ClientHttpProxyError):
            return fetch_error.proxy_refused(self._target(url), error.status)
        outcome, description = describe(error, self._timeout_s)
        if outcome == "tls":
            self._tls.invalidate()
        return FetchError(outcome, f"{self._target(url)}: {description}")

    def _target(self, url: str) -> str:
        """Return where a request goes, and through which proxy, without secrets."""
        shown = url_policy.without_query(url)
        try:
            proxy = self._proxies.proxy_for(url)
        except ProxyError:
            proxy = None
        return f"{shown} through the proxy {proxy.url}" if proxy else shown


async def _pause(limit: asyncio.Timeout, on_large: Callable[[], Awaitable[object]]) -> None:
    """Wait for something that is not upstream's delay."""
    now, until = asyncio.get_running_loop().time, limit.when()
    began = now()
    limit.reschedule(None)
    await on_large()
    limit.reschedule(None if until is None else until + now() - began)


def _conditional_headers(url: str, validators: Validators | None) -> dict[str, str]:
    if validators is None or validators.url != url_policy.identity(url):
        return {}
    headers = {"If-None-Match": validators.etag, "If-Modified-Since": validators.last_modified}
    return {name: clean for name, value in headers.items() if (clean := clean_validator(value))}


def _validators(url: str, response: aiohttp.ClientResponse) -> Validators | None:
    etag, last_modified = (clean_validator(response.headers.get(name)) for name in ("ETag", "Last-Modified"))
    return (
        Validators(url=url_policy.identity(url), etag=etag, last_modified=last_modified)
        if etag or last_modified
        else None
    )


def _retry_after_s(response: aiohttp.ClientResponse) -> float | None:
    return retry_after_s(response.headers.get("Retry-After"), response.headers.get("Date"), time.time())
