"""An answer as it comes over the wire: whole, or an error."""

import asyncio

import aiohttp

from datafile_sidecar.core import answer

_CHUNK = 64 * 1024
_BROKEN = "the connection broke before the whole body had come"


class Response(aiohttp.ClientResponse):
    """One that knows whether its connection ended in an error: a body "until close" hides that from its reader."""

    _ending: asyncio.Future[None] | None = None

    async def start(self, connection: aiohttp.connector.Connection) -> "Response":
        """Read the head, after asking to be told how the connection ends."""
        if (protocol := connection.protocol) is not None and (ending := protocol.closed) is not None:
            ending.remove_done_callback(_noticed)  # one is enough for all the answers of a connection
            ending.add_done_callback(_noticed)
            self._ending = ending
        await super().start(connection)
        return self

    @property
    def was_reset(self) -> bool:
        """Whether the connection has ended, and not by a clean close."""
        ending = self._ending
        return ending is not None and ending.done() and not ending.cancelled() and ending.exception() is not None


def _noticed(ending: asyncio.Future[None]) -> None:
    """Keep asyncio from reporting the lost connection of an answer that came whole, long before."""
    if not ending.cancelled():
        ending.exception()


async def received(response: aiohttp.ClientResponse) -> bytes:
    """The whole body, decompressed. Raises BodyError."""
    codings = ", ".join(response.headers.getall("Content-Encoding", []))
    body = answer.Body(codings, response.content_length)
    try:
        async for chunk in response.content.iter_chunked(_CHUNK):
            body.feed(chunk)
    except (aiohttp.ClientError, OSError) as error:
        raise answer.BodyError("truncated", _BROKEN) from error
    if isinstance(response, Response) and response.was_reset:
        raise answer.BodyError("truncated", _BROKEN)
    return body.complete()
