"""Name resolution that can hang without holding anything up.

The operating system resolves names in a call that can take minutes and can't be interrupted. So lookups run in daemon
threads of their own, a few for each host.
"""

import asyncio
import contextlib
import functools
import ipaddress
import socket
from collections.abc import Callable
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult

from datafile_sidecar.network.single_flight import SingleFlight

# Enough that one lost answer delays no other lookup, few enough that a dead name server costs nothing.
_MAX_LOOKUPS_PER_HOST = 4

GetAddrInfo = Callable[..., list[tuple[Any, ...]]]


class DaemonResolver(AbstractResolver):
    """Resolves names in daemon threads, at most four at a time for a host; a fifth caller shares the latest lookup."""

    def __init__(self, getaddrinfo: GetAddrInfo = socket.getaddrinfo) -> None:
        """`getaddrinfo` is called as `socket.getaddrinfo` is; tests pass one that hangs."""
        self._getaddrinfo = getaddrinfo
        # Never emptied: all hosts come from the settings or are Optimizely's.
        self._lookups: dict[tuple[str, socket.AddressFamily], SingleFlight[list[ResolveResult]]] = {}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return all addresses of a host, in the system's order.

        Raises:
            OSError: The name does not resolve.
        """
        if (host, family) not in self._lookups:
            lookup = functools.partial(self._lookup, host, family)
            self._lookups[host, family] = SingleFlight(lookup, f"resolve-{host}", _MAX_LOOKUPS_PER_HOST)
        results = await self._lookups[host, family].result()
        return [ResolveResult(**{**result, "port": port}) for result in results]

    async def close(self) -> None:
        """Do nothing: running lookups end with their threads."""

    def _lookup(self, host: str, family: socket.AddressFamily) -> list[ResolveResult]:
        flags = socket.AI_ADDRCONFIG
        infos = self._getaddrinfo(host, None, family=family, type=socket.SOCK_STREAM, flags=flags)
        return [_result(host, info) for info in infos]


async def addresses(resolver: AbstractResolver, host: str, timeout_s: float) -> list[str]:
    """Resolve a host to its addresses, each once; an address resolves to itself.

    Raises:
        OSError: The name does not resolve, can't be a name, or has no answer in time (TimeoutError).
    """
    with contextlib.suppress(ValueError):
        return [str(ipaddress.ip_address(host))]
    try:
        async with asyncio.timeout(timeout_s):
            return list(dict.fromkeys(result["host"] for result in await resolver.resolve(host)))
    except UnicodeError as problem:
        raise OSError(f"{host[:80]!r} can't be a name") from problem


def _result(host: str, info: tuple[Any, ...]) -> ResolveResult:
    family, _, proto, _, address = info
    scope = f"%{address[3]}" if family == socket.AF_INET6 and address[3] else ""
    numeric = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    return ResolveResult(hostname=host, host=f"{address[0]}{scope}", port=0, family=family, proto=proto, flags=numeric)
