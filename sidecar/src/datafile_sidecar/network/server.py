"""Listening sockets, and HTTP servers that slow or broken clients can't block."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress

from aiohttp import web
from aiohttp.http import HttpProcessingError

from datafile_sidecar.network.connection_limiter import ConnectionLimiter, LimitedConnection

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
    app: web.Application,
    listener: socket.socket,
    on_drop: Callable[[], None] = lambda: None,
    *,
    max_connections: int = 256,
    max_body_bytes: int = 64 * 1024,
) -> AsyncIterator[None]:
    """Serve an application on a socket as long as the context lasts; then open requests get 0.1 s to end.

    Idle and half-sent connections are closed after 5 s, and so are those whose client does not take its answer. At the limit of
    connections the oldest is dropped at once, at the limit of memory the one that holds most. Bodies are not decompressed.

    Args:
        app: What to serve.
        listener: A listening socket, as `bind` creates it.
        on_drop: Called for each connection that is dropped at a limit.
        max_connections: How many may be open.
        max_body_bytes: What a request may have beside 32 KiB for its head; as much as a webhook, by default.
    """
    app.middlewares.append(_count_requests)
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
        limiter = ConnectionLimiter(runner.server, max_connections, on_drop, max_body_bytes=max_body_bytes)
        server = await asyncio.get_running_loop().create_server(limiter, sock=listener, backlog=_ACCEPTED_AT_ONCE)
        stack.callback(server.close)
        listener.listen(_BACKLOG)
        yield


@web.middleware
async def _count_requests(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Tell the request's connection when it begins and when its answer is there."""
    connection = request.transport.get_protocol() if request.transport else None
    if not isinstance(connection, LimitedConnection):
        return await handler(request)
    connection.request_began(request)
    try:
        return await handler(request)
    finally:
        connection.request_ended(request.content)
