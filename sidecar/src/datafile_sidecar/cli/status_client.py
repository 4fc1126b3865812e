"""The client of `status`: asks every sidecar at its admin port, and repeats that until all have a revision."""

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from aiohttp import ClientSession
from aiohttp.abc import AbstractResolver
from yarl import URL

from datafile_sidecar.cli.status_request import REQUEST_TIMEOUT_S, Round, reason_of, request
from datafile_sidecar.core import fleet_coverage, fleet_status
from datafile_sidecar.core.fleet_status import StatusResponse
from datafile_sidecar.core.wait_target import WaitTarget
from datafile_sidecar.network.http import client_session
from datafile_sidecar.network.resolver import DaemonResolver, addresses

DEFAULT_TIMEOUT_S = 30.0
ONE_ROUND_S = 2.0
"""How long the only round may take when there is no time to wait."""

_POLL_S = 0.25
_TOLD_ROUND_S = 1.0

Peer = tuple[str, int]
Progress = Callable[[Sequence[StatusResponse], WaitTarget], None]


@dataclass(frozen=True, slots=True)
class Endpoints:
    """The admin ports to ask: fixed `urls`, and every address of the `peers` (host, webhook port) at `admin_port`.

    `own_port` is the webhook port of this sidecar, when the only URL is its own.
    """

    urls: tuple[str, ...]
    peers: tuple[Peer, ...] = ()
    admin_port: int = 0
    own_port: int | None = None

    @classmethod
    def of_fleet(cls, host: str, port: int, peers: Iterable[Peer], own_port: int) -> "Endpoints":
        """The sidecar that listens at `host` and `port` here, with its webhook port, and its peers."""
        local = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
        return cls((str(_url(local, port)),), tuple(peers), port, own_port)

    def ask_at(self, resolved: Mapping[str, Sequence[str]]) -> dict[str, StatusResponse]:
        """By URL, what is known of each endpoint before it is asked.

        Args:
            resolved: the addresses of the peers' hosts.
        """
        own_ports = frozenset(() if self.own_port is None else (self.own_port,))
        asked = {
            url: StatusResponse(_shown(url), None, None, own_ports, self.own_port is None, url) for url in self.urls
        }
        for host, port in self.peers:
            for address in resolved.get(host, ()):
                url = str(_url(address, self.admin_port))
                known = asked.get(url, StatusResponse(_shown(url), url=url))
                asked[url] = replace(known, peer_ports=known.peer_ports | {port}, is_peer=True)
        return asked


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
        this_round = Round(_now() + timeout_s)
        async with client_session(REQUEST_TIMEOUT_S) as session:
            hosts = dict.fromkeys(host for host, _ in self._endpoints.peers)
            resolved, unresolved = await self._resolve_all(hosts, this_round)
            asked = self._endpoints.ask_at(resolved)
            responses = await asyncio.gather(*(request(session, this_round, url, asked[url]) for url in asked))
        # A name server may give only some of the addresses each time, and pods start meanwhile.
        resolved_again, unresolved_again = await self._resolve_all(resolved, this_round)
        missed = [known for url, known in self._endpoints.ask_at(resolved_again).items() if url not in asked]
        doubts = fleet_coverage.doubts(responses, resolved, expected=self._expected)
        return [
            *fleet_status.deduplicate(responses),
            *(replace(one, problem="a new address: not asked yet") for one in missed),
            *unresolved,
            *unresolved_again,
            *doubts,
        ]

    async def wait(
        self, target: WaitTarget, timeout_s: float, on_progress: Progress = lambda *_: None
    ) -> tuple[list[StatusResponse], WaitTarget]:
        """Ask until all have confirmed the target or the time is over, at least once.

        Returns:
            The last full responses, and the target that they were held against.

        Args:
            target: What to wait for.
            timeout_s: 0 for a single round, which may take two seconds.
            on_progress: called with the responses and the target after each round.
        """
        deadline, previous = _now() + timeout_s, None
        while True:
            responses = await self.ask(deadline - _now() if timeout_s else ONE_ROUND_S)
            target = target.after(responses)
            if not target.lagging(responses):
                return responses, target
            if _now() + _POLL_S > deadline:
                # A round that was cut off knows less than the one before it.
                return previous if previous and _now() >= deadline else responses, target
            on_progress(responses, target)
            previous = responses
            await self._until_worth_asking(responses, target, deadline)

    async def _until_worth_asking(
        self, responses: Sequence[StatusResponse], target: WaitTarget, deadline: float
    ) -> None:
        """Wait until all that lag have told that they do no more; only a while where there is one that can't tell that."""
        behind = [one for one in responses if target.lagging([one])]
        if not behind or not all(one.status and one.status.is_told for one in behind):
            await asyncio.sleep(_POLL_S)
            return
        this_round = Round(min(deadline, _now() + _TOLD_ROUND_S))
        async with client_session(REQUEST_TIMEOUT_S) as session:
            waits = (_until_confirmed(session, this_round, one, target) for one in behind)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(this_round.deadline):
                    await asyncio.gather(*waits)

    async def _resolve_all(
        self, hosts: Iterable[str], this_round: Round
    ) -> tuple[dict[str, list[str]], list[StatusResponse]]:
        """Return the addresses of each host, and a problem for each host without one."""
        hosts = list(hosts)
        results = await asyncio.gather(*(self._resolve(host, this_round) for host in hosts))
        resolved = {host: result for host, result in zip(hosts, results, strict=True) if isinstance(result, list)}
        return resolved, [result for result in results if isinstance(result, StatusResponse)]

    async def _resolve(self, host: str, this_round: Round) -> list[str] | StatusResponse:
        try:
            async with asyncio.timeout_at(this_round.deadline), this_round.limit:
                found = await addresses(self._resolver, host, REQUEST_TIMEOUT_S)
            return found or StatusResponse(host, problem="the name resolves to no address")
        except TimeoutError as error:
            reason = this_round.late(error)
        except (OSError, RuntimeError) as error:  # RuntimeError: there is no thread for the lookup
            reason = reason_of(error)
        return StatusResponse(host, problem=f"the name does not resolve: {reason}")


async def _until_confirmed(
    session: ClientSession, this_round: Round, response: StatusResponse, target: WaitTarget
) -> None:
    while response.status and target.lagging([response]):
        asked_at, version = _now(), response.status.status_version
        response = await request(session, this_round, response.url, response, changed_after=version)
        is_news = response.status is not None and response.status.status_version != version
        if not is_news and _now() - asked_at < _POLL_S:  # gone, or it holds too many requests already
            await asyncio.sleep(_POLL_S)


def _url(host: str, port: int) -> URL:
    return URL.build(scheme="http", host=host, port=port)


def _shown(url: str) -> str:
    return url.removeprefix("http://").rstrip("/")


def _now() -> float:
    return asyncio.get_running_loop().time()
