"""The addresses behind the peers' names. Where a look-up is slow or fails, the last known ones are used."""

import asyncio
import contextlib
import ipaddress
import random
import socket
from collections.abc import Callable, Iterable
from typing import Final, NoReturn

from aiohttp.abc import AbstractResolver

from datafile_sidecar.network.resolver import addresses
from datafile_sidecar.observe.telemetry import Telemetry

MANY: Final = 500
"""From so many addresses of a name on, the bus is the better way."""

_LOOK_UPS_AT_S = (0.0, 0.3, 1.0)
"""When look-ups begin: a resolver takes 5 s to notice that a datagram was lost, and asks again only then."""
_LOOK_UP_S = 3.0
_LAST_KNOWN_AFTER_S = 0.3
_REFRESH_S = 300.0

Address = tuple[str, int]


class PeerAddresses:
    """Resolves names, and remembers what they resolved to."""

    def __init__(self, resolver: AbstractResolver, telemetry: Telemetry) -> None:
        """Know nothing yet."""
        self._resolver = resolver
        self._telemetry = telemetry
        self._known: dict[str, list[str]] = {}

    async def run(self, hosts: Iterable[str]) -> NoReturn:
        """Look names up now and again, so that the last known addresses are not old when they are needed."""
        hosts = tuple(dict.fromkeys(hosts))
        while True:
            for host in hosts:
                with contextlib.suppress(OSError):
                    await self.look_up(host)
            await asyncio.sleep(_REFRESH_S * random.uniform(0.8, 1.2))

    async def look_up(self, host: str, found: Callable[[list[str]], object] = lambda _: None) -> None:
        """Find the addresses of a name.

        Args:
            host: The name.
            found: Takes the addresses. Where the look-up is slow or fails, the last known ones come first.

        Raises:
            OSError: The name does not resolve, or not in time.
        """
        known, look_up = self._known.get(host), asyncio.ensure_future(self._look_up(host))
        try:
            if known is not None:
                await asyncio.wait({look_up}, timeout=_LAST_KNOWN_AFTER_S)
                if not look_up.done() or look_up.exception():
                    found(known)
            hosts = await look_up
        finally:
            look_up.cancel()
        if len(hosts) >= MANY > len(known or ()):
            self._telemetry.peers_many(host, len(hosts))
        self._known[host] = hosts
        found(hosts)

    async def _look_up(self, host: str) -> list[str]:
        """Return what the first look-up finds that succeeds; another begins beside one that takes long."""
        attempts = [asyncio.ensure_future(self._look_up_at(host, delay_s)) for delay_s in _LOOK_UPS_AT_S]
        problem = OSError()
        try:
            for attempt in asyncio.as_completed(attempts):
                if not isinstance(result := await attempt, OSError):
                    return result
                problem = result
        finally:
            for one in attempts:
                one.cancel()
        raise problem

    async def _look_up_at(self, host: str, delay_s: float) -> list[str] | OSError:
        await asyncio.sleep(delay_s)
        try:
            return await addresses(self._resolver, host, _LOOK_UP_S - delay_s)
        except OSError as problem:
            return problem


def is_own(address: Address, listens_on: Address) -> bool:
    """Tell whether an address is certainly ours, where our port is bound like that. Asking ourselves by mistake does no harm."""
    host, port = address
    own_host, own_port = listens_on
    return port == own_port and (
        host == own_host or (ipaddress.ip_address(own_host).is_unspecified and _is_local(host))
    )


def host_port(address: Address) -> str:
    """Return an address, or a name with a port, as text."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _is_local(host: str) -> bool:
    """Whether the routing table has an address as one of this machine's; nothing is sent."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((host, 9))
            return bool(probe.getsockname()[0] == host)
    except OSError:
        return False
