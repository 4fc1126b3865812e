"""Tells the other pods of a webhook: the original signed body, posted to every address of the peers' names, marked, one hop.

A peer needs no trust, for each receiver verifies the signature itself. Nothing here is waited for by a webhook's answer, and
no peer is waited for by another. What is lost on the way, polling heals.
"""

import asyncio
import hashlib
import ipaddress
import socket
import time
from collections import Counter, deque
from collections.abc import Iterable
from typing import Any, Final, NoReturn

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from datafile_sidecar.core.times import rfc3339
from datafile_sidecar.core.webhook import PATH, RELAYED_HEADER, SIGNATURE_HEADER
from datafile_sidecar.network.resolver import DaemonResolver, addresses
from datafile_sidecar.observe.telemetry import Telemetry

ONCE_IN_S: Final = 5.0
"""For how long the same body is not relayed again."""

_RESOLVE_S = 2.0
_POST_S = 2.0
_RELAY_S = 6.0
_MOST_RELAYS = 64
_MOST_POSTS = 64  # in each lane
_MOST_REMEMBERED = 1024
_MOST_FAILING_SHOWN = 10

Address = tuple[str, int]


class Peers:
    """The other sidecars, known by the names of headless Services (or by addresses), and what was last told to them."""

    def __init__(
        self,
        names: Iterable[Address],
        listens_on: Address,
        telemetry: Telemetry,
        resolver: AbstractResolver | None = None,
    ) -> None:
        """`listens_on` is where our own webhook port is bound, so that we don't tell ourselves."""
        self._names = tuple(names)
        self._listens_on = listens_on
        self._telemetry = telemetry
        self._resolver = resolver or DaemonResolver()
        self._news: asyncio.Queue[tuple[bytes, bytes]] = asyncio.Queue()
        self._relayed: dict[bytes, float] = {}
        self._running: deque[asyncio.Task[None]] = deque()
        self._idle = asyncio.Event()
        self._idle.set()
        # Peers that answered last time have a lane of their own, so that no number of dead ones takes a place from them.
        self._proven: set[Address] = set()
        self._fast_lane, self._lane = asyncio.Semaphore(_MOST_POSTS), asyncio.Semaphore(_MOST_POSTS)
        self._last: tuple[float, dict[Address, str]] | None = None

    def relay(self, body: bytes, signature: bytes) -> None:
        """Tell the peers of a verified webhook, soon; `signature` is its header. The same body only once in a while."""
        if self._names and self._is_news(body):
            self._idle.clear()
            self._news.put_nowait((body, signature))

    async def run(self) -> NoReturn:
        """Relay for ever. When there is too much of it, the oldest relay gives way."""
        async with _session() as session, asyncio.TaskGroup() as tasks:
            while True:
                body, signature = await self._news.get()
                if len(self._running) >= _MOST_RELAYS:
                    self._running.popleft().cancel()
                task = tasks.create_task(self._relay(_Post(session, body, signature)))
                self._running.append(task)
                task.add_done_callback(self._ended)

    async def settle(self) -> None:
        """Return when every relay is done."""
        await self._idle.wait()

    def status(self) -> dict[str, Any]:
        """The peers' part of `/status`: how the last relay went, and which addresses it did not reach."""
        if not self._names:
            return {"state": "off"}
        at, told = self._last or (None, {})
        failing = [f"{_shown(address)}: {outcome}" for address, outcome in told.items() if outcome != "delivered"]
        return {
            "state": "on",
            "names": [_shown(name) for name in self._names],
            "relayed": rfc3339(at),
            "outcomes": dict(Counter(told.values())),
            "failing": failing[:_MOST_FAILING_SHOWN],
        }

    def _is_news(self, body: bytes) -> bool:
        now, digest = _now(), hashlib.sha256(body).digest()
        for known in [known for known, at in self._relayed.items() if now - at >= ONCE_IN_S]:
            del self._relayed[known]
        if digest in self._relayed:
            return False
        if len(self._relayed) >= _MOST_REMEMBERED:
            del self._relayed[next(iter(self._relayed))]
        self._relayed[digest] = now
        return True

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task in self._running:
            self._running.remove(task)
        if not self._running and self._news.empty():
            self._idle.set()

    # One relay

    async def _relay(self, post: "_Post") -> None:
        told: dict[Address, str] = {}
        try:
            async with asyncio.timeout(_RELAY_S), asyncio.TaskGroup() as tasks:
                for name in self._names:
                    tasks.create_task(self._tell_all(name, post, told))
        except TimeoutError:
            pass  # those whose turn never came stand in `told` as dropped
        finally:
            self._proven &= told.keys()
            self._last = time.time(), told
            self._telemetry.webhook_relayed(Counter(told.values()))

    async def _tell_all(self, name: Address, post: "_Post", told: dict[Address, str]) -> None:
        host, port = name
        try:
            found = await addresses(self._resolver, host, _RESOLVE_S)
        except OSError:
            told[name] = "unresolved"
            return
        fresh = [(address, port) for address in found if (address, port) not in told]
        told |= dict.fromkeys(fresh, "dropped")
        proven = [one for one in fresh if one in self._proven]
        others = [one for one in fresh if one not in self._proven]
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._tell_each(proven, self._fast_lane, post, told))
            tasks.create_task(self._tell_each(others, self._lane, post, told))

    async def _tell_each(
        self, some: list[Address], lane: asyncio.Semaphore, post: "_Post", told: dict[Address, str]
    ) -> None:
        async with asyncio.TaskGroup() as tasks:
            for address in some:
                await lane.acquire()
                task = tasks.create_task(self._tell(address, post, told))
                task.add_done_callback(lambda _: lane.release())

    async def _tell(self, address: Address, post: "_Post", told: dict[Address, str]) -> None:
        if self._is_own(address):
            del told[address]
            return
        outcome = told[address] = await post.to(address)
        if outcome in {"timeout", "unreachable"}:
            self._proven.discard(address)
        else:
            self._proven.add(address)

    def _is_own(self, address: Address) -> bool:
        """Whether it is certainly ours. To tell ourselves by mistake does no harm."""
        host, port = address
        own_host, own_port = self._listens_on
        return port == own_port and (
            host == own_host or (ipaddress.ip_address(own_host).is_unspecified and _leads_back(host))
        )


class _Post:
    """One body on its way to many."""

    def __init__(self, session: aiohttp.ClientSession, body: bytes, signature: bytes) -> None:
        self._session = session
        self._body = body
        self._headers = {
            SIGNATURE_HEADER: signature.strip().decode("ascii"),
            RELAYED_HEADER: "1",
            "Content-Type": "application/json",
        }

    async def to(self, address: Address) -> str:
        """Post it; how that went."""
        try:
            url = URL.build(scheme="http", host=address[0], port=address[1], path=PATH)
            async with self._session.post(url, data=self._body, headers=self._headers, allow_redirects=False) as answer:
                return "delivered" if 200 <= answer.status < 300 else "rejected"
        except TimeoutError:
            return "timeout"
        except (aiohttp.ClientError, OSError, ValueError):
            return "unreachable"


def _session() -> aiohttp.ClientSession:
    """A client without proxies, cookies or kept connections: a peer may be gone by the next webhook."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, force_close=True, resolver=DaemonResolver()),
        timeout=aiohttp.ClientTimeout(total=_POST_S),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        auto_decompress=False,
    )


def _leads_back(host: str) -> bool:
    """Whether an address is one of this machine's, as the routing table has it; nothing is sent."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((host, 9))
            return bool(probe.getsockname()[0] == host)
    except OSError:
        return False


def _shown(address: Address) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _now() -> float:
    return asyncio.get_running_loop().time()
