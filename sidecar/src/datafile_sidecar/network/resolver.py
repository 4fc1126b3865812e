"""Name resolution that can hang without holding anybody up.

The operating system resolves names in a call that can take minutes and can't be interrupted. The event loop's own
threads would be used up by it (publishing needs them too) and are waited for at exit. These threads are ours alone, are
few, and end with the process.
"""

import asyncio
import contextlib
import ipaddress
import socket
import threading
from collections.abc import Callable
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult

# Enough that one lost answer delays nobody, few enough that a dead name server costs nothing.
_MOST_LOOKUPS_PER_HOST = 4

GetAddrInfo = Callable[..., list[tuple[Any, ...]]]


class DaemonResolver(AbstractResolver):
    """Resolves in daemon threads, at most four at a time for a host; who comes fifth shares the latest."""

    def __init__(self, getaddrinfo: GetAddrInfo = socket.getaddrinfo) -> None:
        """`getaddrinfo` is called as `socket.getaddrinfo` is; tests pass one that hangs."""
        self._getaddrinfo = getaddrinfo
        self._lookups: dict[str, list[asyncio.Future[list[ResolveResult]]]] = {}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """All addresses of the host, in the system's order; OSError when there are none."""
        running = self._lookups.setdefault(host, [])
        if len(running) < _MOST_LOOKUPS_PER_HOST:
            running.append(self._start(host, family))
        found = await asyncio.shield(running[-1])
        return [ResolveResult(**{**result, "port": port}) for result in found]

    async def close(self) -> None:
        """Nothing to wait for."""

    def _start(self, host: str, family: socket.AddressFamily) -> asyncio.Future[list[ResolveResult]]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[ResolveResult]] = loop.create_future()
        future.add_done_callback(lambda done: self._forget(host, done))

        def work() -> None:
            try:
                found, problem = self._lookup(host, family), None
            except Exception as error:  # handed to the waiter, whatever it is
                found, problem = [], error
            with contextlib.suppress(RuntimeError):  # the loop may be closed by now
                loop.call_soon_threadsafe(_settle, future, found, problem)

        threading.Thread(target=work, name=f"resolve-{host}", daemon=True).start()
        return future

    def _forget(self, host: str, done: "asyncio.Future[list[ResolveResult]]") -> None:
        self._lookups[host].remove(done)
        if not self._lookups[host]:
            del self._lookups[host]
        if not done.cancelled():
            done.exception()  # seen: a lookup that nobody waits for any more may fail in silence

    def _lookup(self, host: str, family: socket.AddressFamily) -> list[ResolveResult]:
        flags = socket.AI_ADDRCONFIG
        infos = self._getaddrinfo(host, None, family=family, type=socket.SOCK_STREAM, flags=flags)
        return [_result(host, info) for info in infos]


async def addresses(resolver: AbstractResolver, host: str, timeout_s: float) -> list[str]:
    """The addresses of a host that may be one itself, each once. Raises OSError, also when there is no answer in time."""
    try:
        return [str(ipaddress.ip_address(host))]
    except ValueError:
        try:
            async with asyncio.timeout(timeout_s):
                return list(dict.fromkeys(found["host"] for found in await resolver.resolve(host)))
        except UnicodeError as problem:
            raise OSError(f"{host[:80]!r} can't be a name") from problem


def _settle(
    future: "asyncio.Future[list[ResolveResult]]", found: list[ResolveResult], problem: Exception | None
) -> None:
    if future.cancelled():
        return
    if problem is None:
        future.set_result(found)
    else:
        future.set_exception(problem)


def _result(host: str, info: tuple[Any, ...]) -> ResolveResult:
    family, _, proto, _, address = info
    scope = f"%{address[3]}" if family == socket.AF_INET6 and address[3] else ""
    numeric = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    return ResolveResult(hostname=host, host=f"{address[0]}{scope}", port=0, family=family, proto=proto, flags=numeric)
