"""Sockets to serve HTTP on, and servers that let nobody hold them up."""

import asyncio
import logging
import resource
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import web
from aiohttp.http import HttpProcessingError

from datafile_sidecar.network.connection_limiter import Crowd

MAX_CONNECTIONS: Final = 256
_BACKLOG = 4096
"""Connections that wait in the kernel; with more, it drops the next one's first packet, which costs its sender a second."""
_ACCEPTED_AT_ONCE = 4
"""Between two turns of the loop: a connection is read a few turns after it was accepted, and no crowd may push it out before. By
itself, asyncio accepts as many as the backlog has, which may be more than there are file descriptors."""


def _is_news(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError | ConnectionError))


# Nobody is told of what is no HTTP (400 is the answer) or of who leaves in the middle: anybody can do that, without end.
_LOGGER = logging.getLogger("datafile_sidecar.http")
_LOGGER.addFilter(_is_news)


class ListenError(Exception):
    """An address can't be listened on; its text names it and says what to do."""


def bind(host: str, port: int, setting: str) -> socket.socket:
    """A listening socket; an empty host means all interfaces, of both families where there are two. Raises ListenError."""
    try:
        if host:
            family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
            return socket.create_server((host, port), family=family, backlog=_BACKLOG)
        return _bind_all(port)
    except (OSError, UnicodeError) as problem:
        cause = problem.strerror if isinstance(problem, OSError) and problem.strerror else problem
        raise ListenError(f"can't listen on {host}:{port} ({cause}): choose another address in {setting}") from problem


def _bind_all(port: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        try:
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=_BACKLOG)
        except OSError:
            # IPv6 is compiled in but turned off: IPv4 alone, and if that fails too, its error tells more.
            pass
    return socket.create_server(("", port), family=socket.AF_INET, backlog=_BACKLOG)


@asynccontextmanager
async def serving(
    app: web.Application, listener: socket.socket, dropped: Callable[[], None] = lambda: None
) -> AsyncIterator[None]:
    """Serve an application on a socket. At the end open requests get a tenth of a second.

    Idle, silent and half-sent connections are dropped after 5 s, the oldest at once where there are too many; `dropped` is told of
    each of these. A request's head has at most 32 KiB, and its body comes as the bytes of the wire.
    """
    runner = web.AppRunner(
        app,
        access_log=None,
        logger=_LOGGER,
        auto_decompress=False,
        handle_signals=False,
        keepalive_timeout=5.0,
        lingering_time=1.0,
        shutdown_timeout=0.1,
    )
    await runner.setup()
    try:
        assert runner.server
        crowd = Crowd(runner.server, _limit(), dropped)
        loop = asyncio.get_running_loop()
        server = await loop.create_server(crowd, sock=listener, backlog=_ACCEPTED_AT_ONCE)
        listener.listen(_BACKLOG)
        try:
            yield
        finally:
            server.close()
    finally:
        await runner.cleanup()


def _limit() -> int:
    """How many connections a port may have: a quarter of the file descriptors, for there are two ports, and work to be done."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_CONNECTIONS if descriptors == resource.RLIM_INFINITY else min(MAX_CONNECTIONS, descriptors // 4)
