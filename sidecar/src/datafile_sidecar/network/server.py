"""Listening sockets, and HTTP servers that slow or broken clients can't block."""

import asyncio
import logging
import resource
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Final

from aiohttp import web
from aiohttp.http import HttpProcessingError

from datafile_sidecar.network.connection_limiter import ConnectionLimiter

MAX_CONNECTIONS: Final = 256
# Connections that may wait in the kernel. Above that it drops the next one's first packet, which costs its sender a second.
_BACKLOG = 4096
# In one iteration of the event loop. A connection is read a few iterations after it was accepted, and must not be dropped at
# the limit before that. By default asyncio accepts the whole backlog at once, which may be more than there are file descriptors.
_ACCEPTED_AT_ONCE = 4


def _is_worth_logging(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError | ConnectionError))


# Any client can send malformed HTTP (it gets 400) or disconnect midway, as often as it likes: that must not fill the log.
_LOGGER = logging.getLogger("datafile_sidecar.http")
_LOGGER.addFilter(_is_worth_logging)


class ListenError(Exception):
    """The sidecar can't listen on an address; the message names it and says what to do."""


def bind(host: str, port: int, setting: str) -> socket.socket:
    """Create a listening socket.

    Args:
        host: An address or a name; empty for all interfaces, IPv4 and IPv6.
        port: 0 lets the system choose.
        setting: The setting that names this address, for the error's message.

    Raises:
        ListenError: The address can't be used.
    """
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
        # IPv6 may be compiled in but turned off. Then use IPv4 alone; if that fails too, its error says more.
        with suppress(OSError):
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=_BACKLOG)
    return socket.create_server(("", port), family=socket.AF_INET, backlog=_BACKLOG)


@asynccontextmanager
async def serving(
    app: web.Application, listener: socket.socket, on_drop: Callable[[], None] = lambda: None
) -> AsyncIterator[None]:
    """Serve an application on a socket as long as the context lasts; then open requests get 0.1 s to end.

    Idle and half-sent connections are closed after 5 s, at the connection limit the oldest at once. A request's head may have
    32 KiB. Bodies are not decompressed.

    Args:
        app: What to serve.
        listener: A listening socket, as `bind` creates it.
        on_drop: Called for each connection that is dropped at the limit.
    """
    runner = web.AppRunner(
        app,
        access_log=None,
        logger=_LOGGER,
        auto_decompress=False,
        keepalive_timeout=5.0,
        lingering_time=1.0,
        shutdown_timeout=0.1,
    )
    async with AsyncExitStack() as stack:
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        assert runner.server
        limiter = ConnectionLimiter(runner.server, _connection_limit(), on_drop)
        server = await asyncio.get_running_loop().create_server(limiter, sock=listener, backlog=_ACCEPTED_AT_ONCE)
        stack.callback(server.close)
        listener.listen(_BACKLOG)
        yield


def _connection_limit() -> int:
    """How many connections a port may have: a quarter of the file descriptors, as two ports and other work share them."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_CONNECTIONS if descriptors == resource.RLIM_INFINITY else min(MAX_CONNECTIONS, descriptors // 4)
