"""What all our HTTP conversations with other pods share: a plain client session, and a body read with a limit."""

import aiohttp
from aiohttp import web

from datafile_sidecar.network.connection_limiter import RequestTooLargeError
from datafile_sidecar.network.resolver import DaemonResolver


def client_session(timeout_s: float) -> aiohttp.ClientSession:
    """Create a client for other pods: no proxy, no cookies, no kept connections, no compression.

    Args:
        timeout_s: For a whole request, the answer's body included.
    """
    return aiohttp.ClientSession(
        # A pod may be gone by the next request, so no connection is kept for it.
        connector=aiohttp.TCPConnector(limit=0, force_close=True, resolver=DaemonResolver()),
        timeout=aiohttp.ClientTimeout(total=timeout_s),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        auto_decompress=False,
        headers={"Accept-Encoding": "identity"},
    )


async def read_body(message: web.Request | aiohttp.ClientResponse, max_bytes: int) -> bytes | None:
    """Read a body as it comes over the wire; None where it has more than `max_bytes`, or more than its port admits."""
    if (message.content_length or 0) > max_bytes:
        return None
    body = bytearray()
    try:
        async for chunk in message.content.iter_any():
            body += chunk
            if len(body) > max_bytes:
                return None
    except RequestTooLargeError:
        return None
    return bytes(body)
