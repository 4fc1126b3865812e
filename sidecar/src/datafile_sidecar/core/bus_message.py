"""The message on the bus that announces a datafile, perhaps with the change that leads to it from the one before.

A message is the head of the value, then a `Notice`, each as a line of JSON, then the change: compressed, and empty where there is
none. Anyone who can write to the broker can send one, so all that it says is a claim until the digest of the result is compared.
"""

from dataclasses import dataclass
from typing import Annotated, Final

import msgspec

from datafile_sidecar.core import bus_record
from datafile_sidecar.core.bus_record import MAX_VALUE_BYTES, BadRecordError, Digest, Head, Message

MAX_MESSAGE_BYTES: Final = 16384
_BROKER_BYTES_PER_S: Final = 100_000_000
_MAX_SPREAD_S: Final = 30.0
_ASSUMED_LISTENERS: Final = 1000


class Notice(Message, frozen=True, kw_only=True):
    """What is said about a value beside its head.

    `size` is its length in bytes. `listeners` is the number of sidecars that the message was sent to, None where the broker does
    not tell. `base` is the digest of the datafile that the change is from, None where the message brings no change.
    """

    size: Annotated[int, msgspec.Meta(ge=0, le=MAX_VALUE_BYTES)]
    listeners: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] | None = None
    base: Digest | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """What turns the datafile with the digest `base` into the one with the digest `sha256`, compressed."""

    base: str
    sha256: str
    frame: bytes


@dataclass(frozen=True, slots=True)
class BusMessage:
    """A datafile on the bus, announced. `line` is the head line of its value."""

    head: Head
    line: bytes
    notice: Notice
    frame: bytes

    @property
    def spread_s(self) -> float:
        """The seconds over which all sidecars spread their reading of the value, so that a broker's line can carry it."""
        listeners = _ASSUMED_LISTENERS if self.notice.listeners is None else self.notice.listeners
        return min(_MAX_SPREAD_S, self.notice.size * listeners / _BROKER_BYTES_PER_S)


_NOTICE = msgspec.json.Decoder(Notice)


def encode(head: Head, size: int, listeners: int | None, change: Change | None) -> bytes:
    """Return the message for a value of this size; with the change, if that leads to it and the message is not too long."""
    if change is not None and change.sha256 == head.sha256:
        notice = Notice(size=size, listeners=listeners, base=change.base)
        if len(message := _lines(head, notice) + change.frame) <= MAX_MESSAGE_BYTES:
            return message
    return _lines(head, Notice(size=size, listeners=listeners))


def decode(text: bytes) -> BusMessage:
    """Return the message. Raises BadRecordError."""
    if len(text) > MAX_MESSAGE_BYTES:
        raise BadRecordError(f"larger than {MAX_MESSAGE_BYTES} bytes")
    head = bus_record.decode_head(text)
    line, _, rest = text.partition(b"\n")
    notice, _, frame = rest.partition(b"\n")
    try:
        return BusMessage(head, line, _NOTICE.decode(notice), frame)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise BadRecordError("its second line is malformed") from error


def _lines(head: Head, notice: Notice) -> bytes:
    return head.encode() + b"\n" + notice.encode() + b"\n"
