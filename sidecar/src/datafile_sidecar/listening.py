"""Sockets to serve HTTP on, and servers that let nobody hold them up."""

import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web
from aiohttp.http import HttpProcessingError

_BACKLOG = 512


def _is_news(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


# What is no HTTP is answered with 400 and no word: anybody can send it, as often as they like.
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
async def serving(app: web.Application, listener: socket.socket) -> AsyncIterator[None]:
    """Serve an application on a socket. At the end open requests get a tenth of a second.

    Idle, silent and half-sent connections are dropped after 5 s, and request bodies come as the bytes of the wire.
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
        await web.SockSite(runner, listener, backlog=_BACKLOG).start()
        yield
    finally:
        await runner.cleanup()
