"""Name resolution that can hang without holding anything up.

The operating system resolves names in a call that can take minutes and can't be interrupted. So each lookup runs in a daemon
thread of its own, a few at a time for each host. One that hangs then takes no thread from asyncio's pool, which publishing
needs, and does not hold up the end of the process.
"""

import asyncio
import contextlib
import functools
import ipaddress
import socket
import threading
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult

# Enough that one lost answer delays no other lookup, few enough that a dead name server costs nothing.
_MAX_LOOKUPS_PER_HOST = 4

GetAddrInfo = Callable[..., list[tuple[Any, ...]]]
_Lookup = asyncio.Future[list[tuple[Any, ...]]]


class DaemonResolver(AbstractResolver):
    """Resolves names in daemon threads, at most four at a time for a host; a fifth caller shares the latest lookup."""

    def __init__(self, getaddrinfo: GetAddrInfo = socket.getaddrinfo) -> None:
        """`getaddrinfo` is called as `socket.getaddrinfo` is; tests pass one that hangs."""
        self._getaddrinfo = getaddrinfo
        # Hosts are never removed: all come from the settings or are Optimizely's.
        self._lookups: defaultdict[tuple[str, socket.AddressFamily], list[_Lookup]] = defaultdict(list)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return all addresses of a host, in the system's order. Cancelling the wait does not end the lookup.

        Raises:
            OSError: The name does not resolve.
        """
        lookups = self._lookups[host, family]
        if len(lookups) < _MAX_LOOKUPS_PER_HOST:
            lookups.append(self._start(host, family))
            lookups[-1].add_done_callback(lookups.remove)
        return [_result(host, port, info) for info in await asyncio.shield(lookups[-1])]

    async def close(self) -> None:
        """Do nothing: running lookups end with their threads."""

    def _start(self, host: str, family: socket.AddressFamily) -> _Lookup:
        loop = asyncio.get_running_loop()
        lookup: _Lookup = loop.create_future()
        lookup.add_done_callback(
            asyncio.Future.exception
        )  # marks it as seen: a lookup without callers may fail silently

        def run() -> None:
            try:
                flags = socket.AI_ADDRCONFIG
                infos = self._getaddrinfo(host, None, family=family, type=socket.SOCK_STREAM, flags=flags)
                finish: Callable[[], None] = functools.partial(lookup.set_result, infos)
            except Exception as error:  # handed to the callers, whatever it is
                finish = functools.partial(lookup.set_exception, error)
            with contextlib.suppress(RuntimeError):  # the loop may be closed by now
                loop.call_soon_threadsafe(finish)

        threading.Thread(target=run, name=f"resolve-{host}", daemon=True).start()
        return lookup


async def addresses(resolver: AbstractResolver, host: str, timeout_s: float) -> list[str]:
    """Resolve a host to its addresses, each once; an address resolves to itself.

    Raises:
        OSError: The name does not resolve, can't be a name, or has no answer in time (TimeoutError).
    """
    try:
        return [str(ipaddress.ip_address(host))]
    except ValueError:
        try:
            async with asyncio.timeout(timeout_s):
                return list(dict.fromkeys(result["host"] for result in await resolver.resolve(host)))
        except UnicodeError as problem:
            raise OSError(f"{host[:80]!r} can't be a name") from problem


def _result(host: str, port: int, info: tuple[Any, ...]) -> ResolveResult:
    family, _, proto, _, address = info
    scope = f"%{address[3]}" if family == socket.AF_INET6 and address[3] else ""
    numeric = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    return ResolveResult(
        hostname=host, host=f"{address[0]}{scope}", port=port, family=family, proto=proto, flags=numeric
    )
