"""The client of `status`: asks every sidecar at its admin port, and repeats that until all have a revision."""

import asyncio
import os
import resource
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from datafile_sidecar.core import fleet_coverage, fleet_status
from datafile_sidecar.core.fleet_status import InvalidStatusError, StatusResponse, printable
from datafile_sidecar.core.wait_target import WaitTarget
from datafile_sidecar.network.http import client_session, read_body
from datafile_sidecar.network.resolver import DaemonResolver, addresses

DEFAULT_TIMEOUT_S = 30.0
ONE_ROUND_S = 2.0
"""How long the only round may take when there is no time to wait."""

_REQUEST_TIMEOUT_S = 2.0
_MAX_CONCURRENT = 256
_SPARE_DESCRIPTORS = 64
_MAX_BYTES = 4 * 1024 * 1024
_WAIT_INTERVAL_S = 0.25

Peer = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Endpoints:
    """The admin ports to ask: fixed `urls`, and every address of the `peers` (host, webhook port) at `admin_port`.

    `own_port` is the webhook port of this sidecar, when the only URL is its own.
    """

    urls: tuple[str, ...]
    peers: tuple[Peer, ...] = ()
    admin_port: int = 0
    own_port: int | None = None
    has_unknown_members: bool = False

    @classmethod
    def of_fleet(
        cls, host: str, port: int, peers: Iterable[Peer], own_port: int, *, has_bus: bool = False
    ) -> "Endpoints":
        """The sidecar that listens at `host` and `port` here, with its webhook port, and its peers."""
        local = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
        peers = tuple(peers)
        return cls((str(_url(local, port)),), peers, port, own_port, has_bus and not peers)

    def ask_at(self, resolved: Mapping[str, Sequence[str]]) -> dict[str, StatusResponse]:
        """By URL, what is known of each endpoint before it is asked.

        Args:
            resolved: the addresses of the peers' hosts.
        """
        own_ports = frozenset(() if self.own_port is None else (self.own_port,))
        asked = {url: StatusResponse(_shown(url), None, None, own_ports, self.own_port is None) for url in self.urls}
        for host, port in self.peers:
            for address in resolved.get(host, ()):
                url = str(_url(address, self.admin_port))
                known = asked.get(url, StatusResponse(_shown(url)))
                asked[url] = replace(known, peer_ports=known.peer_ports | {port}, is_peer=True)
        return asked


@dataclass(slots=True)
class _Round:
    """Lookups and requests that all end at the deadline, so many at a time."""

    deadline: float
    limit: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_max_concurrent()))

    def late(self, error: TimeoutError) -> str:
        return "no answer before the --timeout" if _now() >= self.deadline else _reason(error)


class StatusClient:
    """Asks all sidecars. Names are resolved again each time, because pods come and go."""

    def __init__(
        self, endpoints: Endpoints, resolver: AbstractResolver | None = None, *, expected: int | None = None
    ) -> None:
        """Ask nothing yet.

        Args:
            endpoints: The admin ports.
            resolver: Resolves the peers' names.
            expected: How many sidecars must answer, None when that is not known.
        """
        self._endpoints = endpoints
        self._resolver = resolver or DaemonResolver()
        self._expected = expected

    async def ask(self, timeout_s: float = DEFAULT_TIMEOUT_S) -> list[StatusResponse]:
        """Ask each sidecar once. Whatever fails, does not resolve or can't be known is a response with a problem."""
        this_round = _Round(_now() + timeout_s)
        async with client_session(_REQUEST_TIMEOUT_S) as session:
            hosts = dict.fromkeys(host for host, _ in self._endpoints.peers)
            resolved, unresolved = await self._resolve_all(hosts, this_round)
            asked = self._endpoints.ask_at(resolved)
            responses = await asyncio.gather(*(_request(session, this_round, url, asked[url]) for url in asked))
        # A name server may give only some of the addresses each time, and pods start meanwhile.
        resolved_again, unresolved_again = await self._resolve_all(resolved, this_round)
        missed = [known for url, known in self._endpoints.ask_at(resolved_again).items() if url not in asked]
        doubts = fleet_coverage.doubts(
            responses, resolved, expected=self._expected, has_unknown_members=self._endpoints.has_unknown_members
        )
        return [
            *fleet_status.deduplicate(responses),
            *(replace(one, problem="a new address: not asked yet") for one in missed),
            *unresolved,
            *unresolved_again,
            *doubts,
        ]

    async def wait(
        self, target: WaitTarget, timeout_s: float, on_progress: Callable[[list[str]], None] = lambda _: None
    ) -> tuple[list[StatusResponse], WaitTarget]:
        """Ask until all have confirmed the target or the time is over, at least once.

        Returns:
            The last full responses, and the target that they were held against.

        Args:
            target: What to wait for.
            timeout_s: 0 for a single round, which may take two seconds.
            on_progress: called with the lagging sidecars and workers after each round.
        """
        deadline, previous = _now() + timeout_s, None
        while True:
            responses = await self.ask(deadline - _now() if timeout_s else ONE_ROUND_S)
            target = target.after(responses)
            lagging = target.lagging(responses)
            if not lagging:
                return responses, target
            if _now() + _WAIT_INTERVAL_S > deadline:
                # A round that was cut off knows less than the one before it.
                return previous if previous and _now() >= deadline else responses, target
            on_progress(lagging)
            previous = responses
            await asyncio.sleep(_WAIT_INTERVAL_S)

    async def _resolve_all(
        self, hosts: Iterable[str], this_round: _Round
    ) -> tuple[dict[str, list[str]], list[StatusResponse]]:
        """Return the addresses of each host, and a problem for each host without one."""
        hosts = list(hosts)
        results = await asyncio.gather(*(self._resolve(host, this_round) for host in hosts))
        resolved = {host: result for host, result in zip(hosts, results, strict=True) if isinstance(result, list)}
        return resolved, [result for result in results if isinstance(result, StatusResponse)]

    async def _resolve(self, host: str, this_round: _Round) -> list[str] | StatusResponse:
        try:
            async with asyncio.timeout_at(this_round.deadline), this_round.limit:
                found = await addresses(self._resolver, host, _REQUEST_TIMEOUT_S)
            return found or StatusResponse(host, problem="the name resolves to no address")
        except TimeoutError as error:
            reason = this_round.late(error)
        except (OSError, RuntimeError) as error:  # RuntimeError: there is no thread for the lookup
            reason = _reason(error)
        return StatusResponse(host, problem=f"the name does not resolve: {reason}")


async def _request(
    session: aiohttp.ClientSession, this_round: _Round, url: str, known: StatusResponse
) -> StatusResponse:
    is_asked = False
    try:
        async with asyncio.timeout_at(this_round.deadline), this_round.limit:
            is_asked = True
            async with session.get(f"{url.rstrip('/')}/status", allow_redirects=False) as response:
                return await _parse(response, known)
    except InvalidStatusError as error:
        problem = printable(str(error))
    except aiohttp.ClientPayloadError:
        problem = "answers, but the answer is cut off"
    except TimeoutError as error:
        problem = f"unreachable: {this_round.late(error)}" if is_asked else "not asked before the --timeout"
    except (aiohttp.ClientError, OSError, ValueError) as error:
        problem = f"unreachable: {_reason(error)}"
    return replace(known, problem=problem)


async def _parse(response: aiohttp.ClientResponse, known: StatusResponse) -> StatusResponse:
    if response.status != 200:
        return replace(known, problem=f"answers {response.status}: is this a sidecar's admin port?")
    body = await read_body(response, _MAX_BYTES)
    if body is None:
        raise InvalidStatusError(f"answers with more than {_MAX_BYTES} bytes")
    return replace(known, status=fleet_status.parse(body))


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {_REQUEST_TIMEOUT_S:g} s"
    cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
    if isinstance(cause, ConnectionRefusedError):
        return "refuses connections: ended, or starting again?"
    # asyncio's own text repeats the address.
    reason = os.strerror(cause.errno) if isinstance(cause, ConnectionError) and cause.errno else None
    return printable(reason or getattr(cause, "strerror", None) or str(cause) or type(cause).__name__)


def _url(host: str, port: int) -> URL:
    return URL.build(scheme="http", host=host, port=port)


def _shown(url: str) -> str:
    return url.removeprefix("http://").rstrip("/")


def _max_concurrent() -> int:
    """As many as the limit of open files leaves room for."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    room = _MAX_CONCURRENT if limit == resource.RLIM_INFINITY else limit - _SPARE_DESCRIPTORS
    return max(1, min(_MAX_CONCURRENT, room))


def _now() -> float:
    return asyncio.get_running_loop().time()
