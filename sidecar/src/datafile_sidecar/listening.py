"""Sockets to serve HTTP on, and servers that let nobody hold them up."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

_BACKLOG = 512


class ListenError(Exception):
    """An address can't be listened on; its text names it and says what to do."""


def bind(host: str, port: int, setting: str) -> socket.socket:
    """A listening socket; an empty host means all interfaces, of both families where there are two. Raises ListenError."""
    try:
        if host:
            family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
            return socket.create_server((host, port), family=family, backlog=_BACKLOG)
        return _bind_all(port)
    except OSError as problem:
        raise ListenError(
            f"can't listen on {host}:{port} ({problem.strerror or problem}): choose another address in {setting}"
        ) from problem


def _bind_all(port: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        try:
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=_BACKLOG)
        except OSError:
            # IPv6 is compiled in but turned off: IPv4 alone, and if that fails too, its error tells more.
            pass
    return socket.create_server(("", port), family=socket.AF_INET, backlog=_BACKLOG)


@asynccontextmanager
async def serving(app: web.Application, listener: socket.socket) -> AsyncIterator[None]:
    """Serve an application on a socket. At the end open requests get a tenth of a second.

    Idle, silent and half-sent connections are dropped after 5 s, and request bodies come as the bytes of the wire.
    """
    runner = web.AppRunner(
        app,
        access_log=None,
        auto_decompress=False,
        handle_signals=False,
        keepalive_timeout=5.0,
        lingering_time=1.0,
        shutdown_timeout=0.1,
    )
    await runner.setup()
    try:
        await web.SockSite(runner, listener).start()
        yield
    finally:
        await runner.cleanup()
