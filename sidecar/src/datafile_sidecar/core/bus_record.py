"""What sidecars tell each other by way of the bus, as bytes: a datafile with its head, and that a check was made.

The law: whatever stands on the bus, these functions return something that passed every check or raise `BadRecordError`. The
broker is a cache that others can write to, so nothing in it is trusted.

A value is the head as one line of JSON, then the datafile, compressed. The head alone is the message that tells others.
Times are Unix seconds.
"""

import zlib
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec

from datafile_sidecar.core import datafile
from datafile_sidecar.core.datafile import MAX_BYTES, Datafile, InvalidDatafileError

MAX_HEAD_BYTES = 8192
MAX_VALUE_BYTES = MAX_HEAD_BYTES + MAX_BYTES + 65536
MAX_GENERATION = 1_000_000_000
MAX_TEXT = 1024
_QUICK = 1

_Text = Annotated[str, msgspec.Meta(max_length=MAX_TEXT)]
_Digest = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
_Moment = Annotated[float, msgspec.Meta(ge=0, le=1e11)]


class BadRecordError(ValueError):
    """What stands on the bus can't be used; the words say why and quote nothing of it."""


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    """What makes a request for `url` conditional on the bytes that it belongs to."""

    url: _Text
    etag: _Text | None = None
    last_modified: _Text | None = None


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """What is said of a datafile. `id` is another one each time that a value is written, so that it names that value alone.

    `left` are the digests that rollbacks went away from. `fetched` is when upstream served it.
    """

    v: Literal[1] = 1
    id: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{16}$")] = "0" * 16
    generation: Annotated[int, msgspec.Meta(ge=0, le=MAX_GENERATION)]
    revision: Annotated[int, msgspec.Meta(ge=0, lt=10**15)]
    sha256: _Digest
    fetched: _Moment
    left: Annotated[tuple[_Digest, ...], msgspec.Meta(max_length=4)] = ()
    condition: Condition | None = None

    def encode(self) -> bytes:
        """One line of JSON, without its end."""
        return msgspec.json.encode(self)


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """That upstream served the datafile with this digest at that time, and on what condition to ask again."""

    v: Literal[1] = 1
    at: _Moment
    sha256: _Digest
    condition: Condition | None = None

    def encode(self) -> bytes:
        """JSON."""
        return msgspec.json.encode(self)


@dataclass(frozen=True, slots=True)
class Record:
    """A datafile that came by the bus and passed the same validation as one from upstream."""

    head: Head
    found: Datafile
    line: bytes = b""
    """The head as it stood there: what names this very value."""


_HEAD = msgspec.json.Decoder(Head)
_CHECK = msgspec.json.Decoder(Check)


def encode(head: Head, body: bytes) -> bytes:
    """The value for these bytes of a datafile."""
    return head.encode() + b"\n" + zlib.compress(body, _QUICK)


def decode_head(text: bytes) -> Head:
    """The head in a message, or at the beginning of a value. Raises BadRecordError."""
    line = head_line(text)
    if line is None:
        raise BadRecordError(f"no head within its first {MAX_HEAD_BYTES} bytes")
    try:
        return _HEAD.decode(line)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise BadRecordError("its head can't be understood") from error


def head_line(value: bytes) -> bytes | None:
    """The first line of a value or message, None where that is too long to be a head."""
    line, _, _ = value[: MAX_HEAD_BYTES + 1].partition(b"\n")
    return line if len(line) <= MAX_HEAD_BYTES else None


def decode(value: bytes, sdk_key: str) -> Record:
    """The datafile in a value. Raises BadRecordError."""
    if len(value) > MAX_VALUE_BYTES:
        raise BadRecordError(f"larger than {MAX_VALUE_BYTES} bytes")
    head = decode_head(value)
    try:
        found = datafile.parse(_inflated(value.partition(b"\n")[2]), sdk_key)
    except InvalidDatafileError as error:
        raise BadRecordError(f"it holds no valid datafile: {error}") from error
    if (found.sha256, found.revision) != (head.sha256, head.revision):
        raise BadRecordError("its head describes another datafile than it holds")
    return Record(head, found, head_line(value) or b"")


def _inflated(compressed: bytes) -> bytes:
    inflate = zlib.decompressobj()
    try:
        body = inflate.decompress(compressed, MAX_BYTES + 1)
    except zlib.error as error:
        raise BadRecordError("its datafile can't be decompressed") from error
    if len(body) <= MAX_BYTES and (not inflate.eof or inflate.unused_data):
        raise BadRecordError("its datafile is cut off, or something follows it")
    return body


def decode_check(text: bytes) -> Check | None:
    """What is said of a check, None where it can't be understood."""
    try:
        return _CHECK.decode(text[:MAX_HEAD_BYTES])
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None


def is_newer(mine: Head, theirs: Head, now: float) -> bool:
    """Whether `mine` should stand on the bus in place of `theirs`."""
    return _order(mine, now) > _order(theirs, now)


def _order(head: Head, now: float) -> tuple[int, int, float]:
    # Who claims to have fetched in the future would be the newest for ever.
    return head.generation, head.revision, head.fetched if head.fetched <= now else 0.0
