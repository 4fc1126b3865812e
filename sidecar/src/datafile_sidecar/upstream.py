"""The CDN and the origin: one conditional, capped, timed request for a datafile, and every way it can fail in words.

Whatever the other side, a proxy, the network or the operating system does, `Upstream.fetch` returns a whole body, says
that nothing changed, or raises `FetchError`, all within its time-out. It judges the transport only: whether the body is a
good datafile is for others to say, and so are pauses and retries.
"""

import asyncio
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from datafile_sidecar.core import answer, sources
from datafile_sidecar.core.fetch_error import OUTCOMES, FetchError, proxy_refused, refused, unwelcome
from datafile_sidecar.core.proxies import Proxies, ProxyError
from datafile_sidecar.resolver import DaemonResolver

__all__ = ["FetchError", "Fetched", "MAX_TIMEOUT_S", "NotModified", "OUTCOMES", "Upstream", "Validators"]

MAX_TIMEOUT_S = 30.0
_MAX_HOPS = 4
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_CHUNK = 64 * 1024
_BROKEN = "the connection broke before the whole body had come"


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
        self._trust: ssl.SSLContext | None = None
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        """Open no connection yet: the first fetch does."""
        # No DNS cache: names are looked up for new connections alone, which are few, and failover wants the present answer.
        connector = aiohttp.TCPConnector(
            limit_per_host=8, use_dns_cache=False, resolver=self._resolver or DaemonResolver(), keepalive_timeout=30
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            response_class=_Response,
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
            raise self._explained(error, trail[-1]) from _speakable(error)

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
            ssl=self._tls() if is_https or (proxy and proxy.url.startswith("https:")) else True,
        ) as response:
            if response.status == 200:
                return Fetched(await _received(response), _validators(url, response))
            if response.status == 304 and conditions:
                return NotModified()
            if response.status in _REDIRECTS and (location := response.headers.get("Location")):
                return _next_hop(url, location)
            raise unwelcome(self._where(url), response.status, _retry_after_s(response))

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("Upstream is used outside its `async with`")
        return self._session

    def _tls(self) -> ssl.SSLContext:
        """What we trust, read when first needed and again after a failure, so that a mended bundle needs no restart."""
        if self._trust is None:
            self._trust = _trust(self._environ.get("SSL_CERT_FILE"))
        return self._trust

    def _explained(self, error: Exception, url: str) -> FetchError:
        """The one place where foreign exceptions become ours."""
        if isinstance(error, aiohttp.ClientHttpProxyError):
            return proxy_refused(self._where(url), error.status)
        outcome, problem = _diagnosis(error, self._timeout_s)
        if outcome == "tls":
            self._trust = None
        return FetchError(outcome, f"{self._where(url)}: {problem}")

    def _where(self, url: str) -> str:
        """Whom we asked, and by which proxy, without anything secret."""
        try:
            proxy = self._proxies.proxy_for(url)
        except ProxyError:
            proxy = None
        return f"{sources.shown(url)} through the proxy {proxy.url}" if proxy else sources.shown(url)


class _Response(aiohttp.ClientResponse):
    """An answer that knows whether its connection ended in an error: a body "until close" hides that from its reader."""

    _ending: asyncio.Future[None] | None = None

    async def start(self, connection: aiohttp.connector.Connection) -> "_Response":
        """Read the head, after asking to be told how the connection ends."""
        if (protocol := connection.protocol) is not None and (ending := protocol.closed) is not None:
            ending.remove_done_callback(_noticed)  # one is enough for all the answers of a connection
            ending.add_done_callback(_noticed)
            self._ending = ending
        await super().start(connection)
        return self

    @property
    def was_reset(self) -> bool:
        """Whether the connection has ended, and not by a clean close."""
        ending = self._ending
        return ending is not None and ending.done() and not ending.cancelled() and ending.exception() is not None


def _noticed(ending: asyncio.Future[None]) -> None:
    """Keep asyncio from reporting the lost connection of an answer that came whole, long before."""
    if not ending.cancelled():
        ending.exception()


class _TrustError(Exception):
    """SSL_CERT_FILE is set and can't be used."""


def _trust(cert_file: str | None) -> ssl.SSLContext:
    """OpenSSL's own defaults (which honour SSL_CERT_FILE and SSL_CERT_DIR), and the file: OpenSSL is silent about a bad one."""
    context = ssl.create_default_context()
    if cert_file:
        try:
            context.load_verify_locations(cafile=Path(cert_file))
        except OSError as error:  # ssl.SSLError is one
            cause = "holds no PEM certificates" if isinstance(error, ssl.SSLError) else error.strerror
            raise _TrustError(f"SSL_CERT_FILE={cert_file} can't be used: {cause}") from error
    return context


def _conditions(url: str, validators: Validators | None) -> dict[str, str]:
    if validators is None or validators.url != url:
        return {}
    wanted = {"If-None-Match": validators.etag, "If-Modified-Since": validators.last_modified}
    return {name: clean for name, value in wanted.items() if (clean := answer.clean_validator(value))}


def _validators(url: str, response: aiohttp.ClientResponse) -> Validators | None:
    etag = answer.clean_validator(response.headers.get("ETag"))
    last_modified = answer.clean_validator(response.headers.get("Last-Modified"))
    return Validators(url, etag, last_modified) if etag or last_modified else None


async def _received(response: aiohttp.ClientResponse) -> bytes:
    codings = ", ".join(response.headers.getall("Content-Encoding", []))
    body = answer.Body(codings, response.content_length)
    try:
        async for chunk in response.content.iter_chunked(_CHUNK):
            body.feed(chunk)
    except (aiohttp.ClientError, OSError) as error:
        raise answer.BodyError("truncated", _BROKEN) from error
    if isinstance(response, _Response) and response.was_reset:
        raise answer.BodyError("truncated", _BROKEN)
    return body.complete()


def _next_hop(url: str, location: str) -> str:
    target = sources.redirect_target(url, location)
    if sources.is_downgrade(url, target):
        raise refused(url, target)
    return target


def _retry_after_s(response: aiohttp.ClientResponse) -> float | None:
    return answer.retry_after_s(response.headers.get("Retry-After"), response.headers.get("Date"), time.time())


def _diagnosis(error: Exception, timeout_s: float) -> tuple[str, str]:  # noqa: C901 - a flat table is easiest to check
    """(outcome, words) for whatever was raised. The words quote neither headers nor foreign text, which may hold secrets."""
    match error:
        case answer.BodyError():
            return error.outcome, error.problem
        case TimeoutError():
            return "timeout", f"no complete answer within {timeout_s:g} s"
        case _TrustError():
            return "tls", str(error)
        case ProxyError():
            return "unreachable", str(error)
        case aiohttp.ClientConnectorCertificateError():
            return "tls", f"its certificate is not trusted ({_verdict(error.certificate_error)}); {_TRUST_HINT}"
        case aiohttp.ClientSSLError() | ssl.SSLError():
            return "tls", "no TLS connection could be made; does it speak TLS at this port?"
        case aiohttp.ClientConnectorDNSError():
            return "unreachable", f"the name {error.host} does not resolve ({error.os_error.strerror})"
        case aiohttp.ClientConnectorError():
            return "unreachable", f"can't connect ({str(error.os_error) or type(error.os_error).__name__})"
        case aiohttp.ServerDisconnectedError() | OSError():
            return "unreachable", "the connection broke before there was an answer"
        case aiohttp.ClientResponseError():
            return "protocol_error", f"the answer is not good HTTP ({type(error.__cause__ or error).__name__})"
        case _:
            return "protocol_error", f"the request could not be made or the answer not read ({type(error).__name__})"


_TRUST_HINT = "where a proxy or a private CA signs it, name that CA's file in SSL_CERT_FILE"


def _verdict(error: Exception) -> str:
    return getattr(error, "verify_message", "") or type(error).__name__


def _speakable(error: Exception) -> Exception | None:
    """The cause, unless its `repr` would show the request's headers, and with them the token."""
    return None if isinstance(error, aiohttp.ClientResponseError) else error
