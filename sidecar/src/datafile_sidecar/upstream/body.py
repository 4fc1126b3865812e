"""Read the body of a response: complete, decompressed and within the size limit, or an error.

aiohttp can decompress by itself, but it accepts a gzip stream that is cut off or followed by another one, and it never
returns from a stream that decompresses to nothing. So the raw bytes are decompressed here.
"""

import io
import zlib
from collections.abc import Awaitable, Callable

import aiohttp

from datafile_sidecar.core.datafile import MAX_BYTES

LARGE_BYTES = 1024 * 1024
"""From this size on, decompressed, a body counts as large."""

_CHUNK = 64 * 1024
_GZIP_CHUNK = 4 * 1024  # it grows, usually tenfold: a body must not become large within one
_SLICE = 256 * 1024
_GZIP = 16 + zlib.MAX_WBITS
_CONNECTION_LOST = "the connection broke before the whole body had arrived"


class BodyError(Exception):
    """The body is not complete, not decodable or too large.

    `outcome` is `too_large`, `truncated` or `protocol_error`; the text describes it for people.
    """

    def __init__(self, outcome: str, problem: str) -> None:
        super().__init__(problem)
        self.outcome = outcome


async def read_body(response: aiohttp.ClientResponse, on_large: Callable[[], Awaitable[None]]) -> bytes:
    """Return the whole body, decompressed.

    Args:
        response: Its head was received.
        on_large: Awaited once when a body becomes large. Meanwhile no more of it is read.

    Raises:
        BodyError: The body is not complete, not decodable or too large.
    """
    encoding = ", ".join(response.headers.getall("Content-Encoding", []))
    reader = BodyReader(encoding, response.content_length)
    protocol = response.connection.protocol if response.connection else None
    try:
        async for chunk in response.content.iter_chunked(_GZIP_CHUNK if encoding else _CHUNK):
            was_large = reader.is_large
            reader.feed(chunk)
            if reader.is_large and not was_large:
                await on_large()
    except (aiohttp.ClientError, OSError) as error:
        raise BodyError("truncated", _CONNECTION_LOST) from error
    # A body without a length ends with its connection. aiohttp reports a reset only here, not while reading.
    if protocol is not None and isinstance(protocol.exception(), OSError):
        raise BodyError("truncated", _CONNECTION_LOST)
    return reader.complete()


class BodyReader:
    """Collects one body: call `feed` with each chunk as received, then `complete`. It never holds more than 8 MiB."""

    def __init__(self, content_encoding: str = "", content_length: int | None = None) -> None:
        """Check the headers.

        Raises:
            BodyError: The encoding is not gzip, or the announced length exceeds the limit.
        """
        encoding = content_encoding.strip().lower()
        if encoding not in {"", "identity", "gzip", "x-gzip"}:
            raise BodyError("protocol_error", "the body has a content coding that was not requested (only gzip was)")
        self._gzip = zlib.decompressobj(_GZIP) if encoding.endswith("gzip") else None
        self._received = 0
        # BytesIO returns its buffer without a copy; joining chunks would hold the datafile twice.
        self._buffer = io.BytesIO()
        _check_size(content_length or 0)

    @property
    def is_large(self) -> bool:
        """Whether the body so far, decompressed, is large."""
        return self._buffer.tell() > LARGE_BYTES

    def feed(self, chunk: bytes) -> None:
        """Add the next bytes as received.

        Raises:
            BodyError: The body is too large, before or after decompression, or not a single gzip stream.
        """
        self._received += len(chunk)
        _check_size(self._received)
        if self._gzip is None:
            self._buffer.write(chunk)
            return
        try:
            # In slices: one chunk of a gzip bomb can grow a thousandfold.
            while piece := self._gzip.decompress(chunk, _SLICE):
                _check_size(self._buffer.tell() + len(piece))
                self._buffer.write(piece)
                chunk = self._gzip.unconsumed_tail
        except zlib.error as error:
            raise BodyError("protocol_error", "the body is not a valid gzip stream") from error
        if self._gzip.unused_data:
            raise BodyError("protocol_error", "the body continues after the end of the gzip stream")

    def complete(self) -> bytes:
        """Return the decompressed body.

        Raises:
            BodyError: The gzip stream, which ends with a checksum, is not complete.
        """
        if self._gzip is not None and not self._gzip.eof:
            raise BodyError("truncated", f"the gzip stream ended early, after {self._received} bytes")
        return self._buffer.getvalue()


def _check_size(size: int) -> None:
    if size > MAX_BYTES:
        raise BodyError("too_large", f"the body is larger than {MAX_BYTES // 1024**2} MiB, the limit for a datafile")
