"""What an HTTP answer says, and whether all of it came: pure functions of bytes, header texts and a time.

An HTTP library calls half a gzip stream a success, reads on for as long as the other side sends, and lets 300 kB of bomb
become 300 MiB. So the bytes of the wire come here, piece by piece, and are counted before and after decompression.
"""

import io
import re
import zlib
from datetime import UTC
from email.utils import parsedate_to_datetime

from datafile_sidecar.core.datafile import MAX_BYTES

MAX_RETRY_AFTER_S = 600.0

_SLICE = 256 * 1024
_GZIP = 16 + zlib.MAX_WBITS
_SECONDS = re.compile(r"[0-9]{1,15}", re.ASCII)
_VALIDATOR = re.compile(r"[\x20-\x7e]{1,256}", re.ASCII)


class BodyError(Exception):
    """A body that can't be a whole datafile: `outcome` is `too_large`, `truncated` or `protocol_error`."""

    def __init__(self, outcome: str, problem: str) -> None:
        super().__init__(problem)
        self.outcome = outcome
        self.problem = problem


class Body:
    """Collects one body: feed it the bytes of the wire, then call `complete`. It never holds more than the cap."""

    def __init__(self, content_encoding: str = "", length: int | None = None) -> None:
        """`length` is what Content-Length announced; BodyError when it is hopeless from the start."""
        coding = content_encoding.strip().lower()
        if coding not in {"", "identity", "gzip", "x-gzip"}:
            raise BodyError("protocol_error", "the body has a content coding that nobody asked for (only gzip was)")
        self._gzip = zlib.decompressobj(_GZIP) if coding.endswith("gzip") else None
        self._wire = 0
        # BytesIO gives its buffer away without a copy; joining pieces would hold the datafile twice.
        self._buffer = io.BytesIO()
        self._check_size(length or 0)

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes; BodyError as soon as the body is too large or no gzip."""
        self._wire += len(chunk)
        self._check_size(self._wire)
        if self._gzip is None:
            self._buffer.write(chunk)
        else:
            self._inflate(self._gzip, chunk)

    def complete(self) -> bytes:
        """The decompressed body; BodyError when a gzip stream has not come to its end (its checksum included)."""
        if self._gzip is not None and not self._gzip.eof:
            raise BodyError("truncated", f"the gzip stream broke off after {self._wire} bytes")
        return self._buffer.getvalue()

    def _inflate(self, stream: "zlib._Decompress", chunk: bytes) -> None:
        try:
            # In slices, since one chunk of a bomb can grow a thousandfold.
            while piece := stream.decompress(chunk, _SLICE):
                self._check_size(self._buffer.tell() + len(piece))
                self._buffer.write(piece)
                chunk = stream.unconsumed_tail
        except zlib.error as error:
            raise BodyError("protocol_error", "the body is no good gzip stream") from error
        if stream.unused_data:
            raise BodyError("protocol_error", "something follows the end of the gzip stream")

    def _check_size(self, size: int) -> None:
        if size > MAX_BYTES:
            raise BodyError(
                "too_large", f"the body has more than {MAX_BYTES // 1024**2} MiB, the most a datafile may have"
            )


def retry_after_s(value: str | None, answered: str | None, now_s: float) -> float | None:
    """The pause that `Retry-After` asks for, 0 to 600 s, or None when there is none or it is garbage.

    A date is taken relative to the answer's own `Date`, so that a wrong clock on either side does no harm; `now_s` (Unix
    time) is used when the answer has no date.
    """
    value = (value or "").strip()
    if _SECONDS.fullmatch(value):
        return min(float(value), MAX_RETRY_AFTER_S)
    until_s = _unix_time(value)
    if until_s is None:
        return None
    since_s = _unix_time(answered or "")
    return min(max(until_s - (now_s if since_s is None else since_s), 0.0), MAX_RETRY_AFTER_S)


def clean_validator(value: str | None) -> str | None:
    """An ETag or Last-Modified that can be sent back as it is, else None: what can't would break every later request."""
    return value if value and _VALIDATOR.fullmatch(value) else None


def _unix_time(text: str) -> float | None:
    try:
        when = parsedate_to_datetime(text)
        return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):  # the latter for a year or an offset of twenty digits
        return None
