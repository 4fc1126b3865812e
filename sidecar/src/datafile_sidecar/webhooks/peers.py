"""Relays webhooks to the other pods: the original signed body, posted once to every address of the peers' names.

Peers need no trust, since each receiver verifies the signature itself. A webhook's answer never waits for the relay, and no
peer waits for another. A relayed webhook is marked and not relayed again. A body that comes again goes only to the peers that
did not get it. Polling makes up for a lost one.
"""

import asyncio
import contextlib
import functools
import ipaddress
import socket
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, NoReturn

import aiohttp
from yarl import URL

from datafile_sidecar.core.times import rfc3339
from datafile_sidecar.core.webhook import PATH, RELAYED_HEADER, SIGNATURE_HEADER
from datafile_sidecar.network.http import client_session
from datafile_sidecar.network.resolver import DaemonResolver, addresses
from datafile_sidecar.observe.telemetry import Telemetry
from datafile_sidecar.webhooks.body_memory import BodyMemory
from datafile_sidecar.webhooks.body_relay import BodyRelay

_RESOLVE_S = 2.0
_POST_S = 2.0
_RELAY_S = 6.0
_MAX_RELAYS = 64
_MAX_POSTS = 64  # of each of the two limits
_MAX_FAILING_SHOWN = 10

Address = tuple[str, int]
Outcomes = dict[Address, str]
Post = Callable[[Address], Awaitable[str]]


class Peers:
    """The other sidecars, by the names of headless Services or by addresses, and the results of the last relay."""

    def __init__(
        self, names: Iterable[Address], own: Address, telemetry: Telemetry, resolver: DaemonResolver | None = None
    ) -> None:
        """Start nothing yet: `run` does.

        Args:
            names: Host and port of each peer or headless Service; with none of them, nothing is relayed.
            own: Where our own webhook port is bound, so that we don't post to ourselves.
            telemetry: Logs and counts.
            resolver: Resolves the names.
        """
        self._names = tuple(names)
        self._own = own
        self._telemetry = telemetry
        self._resolver = resolver or DaemonResolver()
        self._queue: asyncio.Queue[tuple[bytes, bytes, BodyRelay]] = asyncio.Queue()
        self._bodies = BodyMemory[BodyRelay]()
        self._relays: deque[asyncio.Task[None]] = deque()
        # Peers that answered last time have a limit of their own, so that they never wait for those that hang.
        self._responsive: set[Address] = set()
        self._responsive_limit, self._limit = asyncio.Semaphore(_MAX_POSTS), asyncio.Semaphore(_MAX_POSTS)
        self._last: tuple[float, Outcomes] | None = None

    def relay(self, body: bytes, signature: bytes) -> None:
        """Queue a verified webhook for the peers. One that was relayed before goes only to those that did not get it.

        Args:
            body: The raw body.
            signature: The value of its signature header.
        """
        if not self._names:
            return
        if (state := self._bodies.get(body)) is None:
            self._bodies.put(body, state := BodyRelay())
        if state.begin(asyncio.get_running_loop().time()):
            self._queue.put_nowait((body, signature, state))

    async def run(self) -> NoReturn:
        """Relay what is queued, for ever. At the limit the oldest relay is cancelled."""
        async with client_session(_POST_S) as session, asyncio.TaskGroup() as tasks:
            while True:
                body, signature, state = await self._queue.get()
                if len(self._relays) >= _MAX_RELAYS:
                    self._relays.popleft().cancel()
                headers = {
                    SIGNATURE_HEADER: signature.strip().decode("ascii"),
                    RELAYED_HEADER: "1",
                    "Content-Type": "application/json",
                }
                task = tasks.create_task(self._relay(functools.partial(_post, session, body, headers), state))
                self._relays.append(task)
                task.add_done_callback(functools.partial(self._relay_ended, state.ended))

    async def settle(self) -> None:
        """Wait until every relay has ended."""
        await self._queue.join()

    async def settle_body(self, body: bytes) -> None:
        """Wait until the relay of one body has ended."""
        if (state := self._bodies.get(body)) is not None:
            await state.ended.wait()

    def is_delivered(self, body: bytes) -> bool | None:
        """Tell whether any peer has got a body from here so far; None where there was no peer to post it to."""
        state = self._bodies.get(body)
        return None if state is None else state.is_delivered

    def status(self) -> dict[str, Any]:
        """Return the peers' part of `/status`: the results of the last relay, and the addresses that it did not reach."""
        if not self._names:
            return {"state": "off"}
        at, outcomes = self._last or (None, {})
        failing = [f"{_host_port(peer)}: {outcome}" for peer, outcome in outcomes.items() if outcome != "delivered"]
        return {
            "state": "on",
            "names": [_host_port(name) for name in self._names],
            "relayed": rfc3339(at),
            "outcomes": dict(Counter(outcomes.values())),
            "failing": failing[:_MAX_FAILING_SHOWN],
        }

    def _relay_ended(self, ended: asyncio.Event, task: asyncio.Task[None]) -> None:
        ended.set()
        if task in self._relays:
            self._relays.remove(task)
        self._queue.task_done()

    # One relay

    async def _relay(self, post: Post, state: BodyRelay) -> None:
        outcomes, missed = state.outcomes, state.missed
        try:
            # The outcome of addresses that are not reached in time is "dropped".
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_RELAY_S), asyncio.TaskGroup() as tasks:
                    for name in self._names:
                        tasks.create_task(self._relay_to_name(name, post, outcomes, missed))
        finally:
            if missed is None:
                self._responsive &= outcomes.keys()
            state.note_outcomes()
            self._last = time.time(), outcomes
            self._telemetry.webhook_relayed(Counter(outcomes.values()))

    async def _relay_to_name(
        self, name: Address, post: Post, outcomes: Outcomes, missed: frozenset[Address] | None
    ) -> None:
        host, port = name
        try:
            hosts = await addresses(self._resolver, host, _RESOLVE_S)
        except OSError:
            outcomes[name] = "unresolved"
            return
        new = [(host, port) for host in hosts if (host, port) not in outcomes and not self._is_own((host, port))]
        if missed is not None and name not in missed:
            new = [address for address in new if address in missed]
        outcomes |= dict.fromkeys(new, "dropped")
        responsive = [address for address in new if address in self._responsive]
        others = [address for address in new if address not in self._responsive]
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._relay_each(responsive, self._responsive_limit, post, outcomes))
            tasks.create_task(self._relay_each(others, self._limit, post, outcomes))

    async def _relay_each(self, group: list[Address], limit: asyncio.Semaphore, post: Post, outcomes: Outcomes) -> None:
        async with asyncio.TaskGroup() as tasks:
            for address in group:
                await limit.acquire()
                task = tasks.create_task(self._relay_to(address, post, outcomes))
                task.add_done_callback(lambda _: limit.release())

    async def _relay_to(self, address: Address, post: Post, outcomes: Outcomes) -> None:
        outcome = outcomes[address] = await post(address)
        if outcome in {"timeout", "unreachable"}:
            self._responsive.discard(address)
        else:
            self._responsive.add(address)

    def _is_own(self, address: Address) -> bool:
        """Whether an address is certainly ours. Posting to ourselves by mistake does no harm."""
        host, port = address
        own_host, own_port = self._own
        listens_on_all = ipaddress.ip_address(own_host).is_unspecified
        return port == own_port and (host == own_host or (listens_on_all and _is_local(host)))


async def _post(session: aiohttp.ClientSession, body: bytes, headers: dict[str, str], address: Address) -> str:
    """Post a webhook to one address and return the outcome."""
    try:
        url = URL.build(scheme="http", host=address[0], port=address[1], path=PATH)
        async with session.post(url, data=body, headers=headers, allow_redirects=False) as response:
            return "delivered" if 200 <= response.status < 300 else "rejected"
    except TimeoutError:
        return "timeout"
    except (aiohttp.ClientError, OSError, ValueError):
        return "unreachable"


def _is_local(host: str) -> bool:
    """Whether the routing table has an address as one of this machine's; nothing is sent."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((host, 9))
        return bool(probe.getsockname()[0] == host)
    return False


def _host_port(address: Address) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
