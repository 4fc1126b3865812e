"""The format of what sidecars share on the bus: a datafile with its head, and the last check of upstream.

Others can write to the broker, so nothing in it is trusted: each decoder returns something that passed every check, or
rejects it.

A value is the head as one line of JSON, then the datafile, compressed: `deflated` by sidecars of the first version, whose messages
are the head alone. `bus_message.py` has the messages of today.
The names in the JSON are shared by sidecars of all versions. Times are Unix seconds.
"""

import hashlib
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec

from datafile_sidecar.core import datafile
from datafile_sidecar.core.conditional import Validators
from datafile_sidecar.core.datafile import MAX_BYTES, Datafile, InvalidDatafileError

MAX_HEAD_BYTES = 8192
MAX_VALUE_BYTES = MAX_HEAD_BYTES + MAX_BYTES + 65536
MAX_GENERATION = 1_000_000_000

Digest = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
_UnixSeconds = Annotated[float, msgspec.Meta(ge=0, le=1e11)]


class BadRecordError(ValueError):
    """A value or message on the bus can't be used; the text says why and quotes nothing of it."""


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """A line of JSON on the bus, of this version of the format."""

    v: Literal[1] = 1

    def encode(self) -> bytes:
        """Return one line of JSON, without a line break."""
        return msgspec.json.encode(self)


class Head(Message, frozen=True, kw_only=True):
    """The description of a datafile.

    `id` is new each time that a value is written, so that it identifies this value. `rolled_back_from` are the digests of
    datafiles that rollbacks replaced. `fetched` is when upstream served it.
    """

    id: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{16}$")] = "0" * 16
    generation: Annotated[int, msgspec.Meta(ge=0, le=MAX_GENERATION)]
    revision: Annotated[int, msgspec.Meta(ge=0, lt=10**15)]
    sha256: Digest
    fetched: _UnixSeconds
    rolled_back_from: Annotated[tuple[Digest, ...], msgspec.Meta(max_length=4)] = msgspec.field(name="left", default=())
    validators: Validators | None = msgspec.field(name="condition", default=None)


class Check(Message, frozen=True, kw_only=True):
    """A check of upstream: at this time it served the datafile with this digest."""

    at: _UnixSeconds
    sha256: Digest
    by: Annotated[str, msgspec.Meta(max_length=16)] = ""
    validators: Validators | None = msgspec.field(name="condition", default=None)


@dataclass(frozen=True, slots=True)
class Record:
    """A datafile from the bus that passed the same validation as one from upstream."""

    head: Head
    datafile: Datafile
    line: bytes
    """The head as it is on the broker: it identifies this value."""


_HEAD = msgspec.json.Decoder(Head)
_CHECK = msgspec.json.Decoder(Check)


def encode(head: Head, compressed: bytes) -> bytes:
    """Return the value for a datafile that is compressed already."""
    return head.encode() + b"\n" + compressed


def decode_head(text: bytes) -> Head:
    """Return the head in a message, or at the beginning of a value. Raises BadRecordError."""
    line = head_line(text)
    if line is None:
        raise BadRecordError(f"no head within its first {MAX_HEAD_BYTES} bytes")
    try:
        return _HEAD.decode(line)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise BadRecordError("its head is malformed") from error


def head_line(value: bytes) -> bytes | None:
    """Return the first line of a value or message, None where it is too long to be a head."""
    line, _, _ = value[: MAX_HEAD_BYTES + 1].partition(b"\n")
    return line if len(line) <= MAX_HEAD_BYTES else None


def decode(value: bytes, sdk_key: str, decompress: Callable[[bytes], bytes]) -> Record:
    """Return the datafile in a value. Raises BadRecordError."""
    if len(value) > MAX_VALUE_BYTES:
        raise BadRecordError(f"larger than {MAX_VALUE_BYTES} bytes")
    head = decode_head(value)
    return record(head, head_line(value) or b"", decompress(value.partition(b"\n")[2]), sdk_key)


def record(head: Head, line: bytes, body: bytes, sdk_key: str) -> Record:
    """Return the datafile with these bytes and this head. Raises BadRecordError."""
    if len(body) <= MAX_BYTES and hashlib.sha256(body).hexdigest() != head.sha256:
        raise BadRecordError("its head describes another datafile")
    try:
        parsed = datafile.parse(body, sdk_key)
    except InvalidDatafileError as error:
        raise BadRecordError(f"its datafile is not valid: {error}") from error
    if parsed.revision != head.revision:
        raise BadRecordError("its head describes another datafile")
    return Record(head, parsed, line)


def deflated(body: bytes) -> bytes:
    """Return a datafile as sidecars of the first version compress it."""
    return zlib.compress(body, level=1)


def inflated(compressed: bytes) -> bytes:
    """Return the datafile that sidecars of the first version have compressed, at most one byte too long. Raises BadRecordError."""
    decompressor = zlib.decompressobj()
    try:
        body = decompressor.decompress(compressed, MAX_BYTES + 1)
    except zlib.error as error:
        raise BadRecordError("its datafile can't be decompressed") from error
    if len(body) <= MAX_BYTES and (not decompressor.eof or decompressor.unused_data):
        raise BadRecordError("its datafile is cut off, or data follows it")
    return body


def decode_check(text: bytes) -> Check | None:
    """Return the check, None where it is malformed."""
    try:
        return _CHECK.decode(text[:MAX_HEAD_BYTES])
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None


def is_newer(mine: Head, theirs: Head, now: float) -> bool:
    """Return whether `mine` should replace `theirs` on the bus. `now` is Unix seconds."""
    return _order(mine, now) > _order(theirs, now)


def is_same(mine: Head, theirs: Head) -> bool:
    """Return whether both describe the same datafile in the same generation, whenever each was fetched."""
    return (mine.generation, mine.sha256, mine.rolled_back_from) == (
        theirs.generation,
        theirs.sha256,
        theirs.rolled_back_from,
    )


def _order(head: Head, now: float) -> tuple[int, int, float]:
    # A time in the future would make this head the newest for ever.
    return head.generation, head.revision, head.fetched if head.fetched <= now else 0.0
