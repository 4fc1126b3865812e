"""The client of `status`: asks every sidecar at its admin port, and repeats that until all have a revision."""

import asyncio
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from datafile_sidecar.core import fleet_status
from datafile_sidecar.core.fleet_status import InvalidStatusError, StatusResponse, printable
from datafile_sidecar.network.resolver import DaemonResolver, addresses

LATEST = "latest"

_REQUEST_TIMEOUT_S = 2.0
_MAX_CONCURRENT_REQUESTS = 32
_MAX_BYTES = 4 * 1024 * 1024
_WAIT_INTERVAL_S = 0.25


@dataclass(frozen=True, slots=True)
class Endpoints:
    """The admin ports to ask: fixed `urls`, and every address of the `names` at `admin_port`."""

    urls: tuple[str, ...]
    names: tuple[str, ...] = ()
    admin_port: int = 0

    @classmethod
    def of_fleet(cls, host: str, port: int, names: Iterable[str]) -> "Endpoints":
        """The sidecar that listens at `host` and `port` here, and its peers."""
        local = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
        return cls((str(URL.build(scheme="http", host=local, port=port)),), tuple(dict.fromkeys(names)), port)


@dataclass(frozen=True, slots=True)
class WaitTarget:
    """The revision of a key to wait for; LATEST is the newest that any sidecar has or expects."""

    sdk_key: str
    revision: int | str
    workers_required: bool = True

    def wanted(self, responses: Sequence[StatusResponse]) -> int | None:
        """The revision as a number, None for LATEST when no sidecar knows a revision."""
        if isinstance(self.revision, str):
            return fleet_status.latest_revision(responses, self.sdk_key)
        return self.revision

    def lagging(self, responses: Sequence[StatusResponse]) -> list[str]:
        """One sentence for each sidecar or worker that has not confirmed the revision or a newer one."""
        return fleet_status.lagging(
            responses, self.sdk_key, self.wanted(responses), workers_required=self.workers_required
        )


class StatusClient:
    """Asks all sidecars. Names are resolved again each time, because pods come and go."""

    def __init__(self, endpoints: Endpoints, resolver: AbstractResolver | None = None) -> None:
        self._endpoints = endpoints
        self._resolver = resolver or DaemonResolver()

    async def ask(self) -> list[StatusResponse]:
        """Ask each sidecar once, within seconds. Failures, and names that don't resolve, are responses with a problem."""
        limit = asyncio.Semaphore(_MAX_CONCURRENT_REQUESTS)
        async with _session() as session:
            resolved = await asyncio.gather(*(self._resolve(name) for name in self._endpoints.names))
            unresolved = [failure for failure, _ in resolved if failure]
            urls = dict.fromkeys((*self._endpoints.urls, *(url for _, urls in resolved for url in urls)))
            responses = await asyncio.gather(*(_request(session, limit, url) for url in urls))
        return [*fleet_status.deduplicate(responses), *unresolved]

    async def wait(
        self, target: WaitTarget, timeout_s: float, on_progress: Callable[[list[str]], None] = lambda _: None
    ) -> list[StatusResponse]:
        """Ask until all have confirmed the target or the time is over, at least once. Returns the last responses.

        Args:
            on_progress: called with the lagging sidecars and workers after each round.
        """
        deadline = _now() + timeout_s
        while True:
            responses = await self.ask()
            lagging = target.lagging(responses)
            if not lagging or _now() + _WAIT_INTERVAL_S > deadline:
                return responses
            on_progress(lagging)
            await asyncio.sleep(_WAIT_INTERVAL_S)

    async def _resolve(self, name: str) -> tuple[StatusResponse | None, list[str]]:
        try:
            hosts = await addresses(self._resolver, name, _REQUEST_TIMEOUT_S)
        except OSError as error:
            return StatusResponse(name, problem=f"the name does not resolve: {_reason(error)}"), []
        return None, [str(URL.build(scheme="http", host=host, port=self._endpoints.admin_port)) for host in hosts]


async def _request(session: aiohttp.ClientSession, limit: asyncio.Semaphore, url: str) -> StatusResponse:
    endpoint = url.removeprefix("http://").rstrip("/")
    try:
        async with limit, session.get(f"{url.rstrip('/')}/status", allow_redirects=False) as response:
            if response.status != 200:
                problem = f"answers {response.status}: is this a sidecar's admin port?"
                return StatusResponse(endpoint, problem=problem)
            return StatusResponse(endpoint, fleet_status.parse(await _read(response)))
    except InvalidStatusError as error:
        return StatusResponse(endpoint, problem=printable(str(error)))
    except (aiohttp.ClientError, OSError, ValueError) as error:
        return StatusResponse(endpoint, problem=f"unreachable: {_reason(error)}")


async def _read(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > _MAX_BYTES:
            raise InvalidStatusError(f"answers with more than {_MAX_BYTES} bytes")
    return bytes(body)


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, force_close=True, resolver=DaemonResolver()),
        timeout=aiohttp.ClientTimeout(total=_REQUEST_TIMEOUT_S),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        auto_decompress=False,
        headers={"Accept-Encoding": "identity"},
    )


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {_REQUEST_TIMEOUT_S:g} s"
    cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
    # asyncio's own text for a refused connection repeats the address.
    reason = os.strerror(cause.errno) if isinstance(cause, ConnectionError) and cause.errno else None
    return printable(reason or getattr(cause, "strerror", None) or str(cause) or type(cause).__name__)


def _now() -> float:
    return asyncio.get_running_loop().time()
