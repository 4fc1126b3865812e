"""The forms in which a datafile is on the broker: that of today, and that of the first version, served as long as it listens.

Each has names of its own, so that sidecars of both versions on one bus overwrite nothing of each other.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from datafile_sidecar.bus import names
from datafile_sidecar.core import bus_message, bus_record
from datafile_sidecar.core.bus_message import Change
from datafile_sidecar.core.bus_record import Head


@dataclass(frozen=True, slots=True)
class Form:
    """Where a datafile is kept and announced, and how it is compressed. Compressing takes milliseconds: call it in a thread."""

    name: str
    key: Callable[[str], str]
    channel: Callable[[str], str]
    compress: Callable[[bytes], bytes]
    decompress: Callable[[bytes], bytes]
    message: Callable[[Head, int, int | None, Change | None], bytes]


def _compressed(body: bytes) -> bytes:
    from datafile_sidecar.bus import compression

    return compression.compressed(body)


def _decompressed(frame: bytes) -> bytes:
    from datafile_sidecar.bus import compression

    return compression.decompressed(frame)


def applied(frame: bytes, base: bytes) -> bytes:
    """Do as `compression.applied`. The module is loaded at its first use, since it needs the extra `redis`."""
    from datafile_sidecar.bus import compression

    return compression.applied(frame, base)


def change_between(base: bytes, base_sha256: str, body: bytes, sha256: str) -> Change | None:
    """Return the change from one datafile to another, None where it is too large for a message. Call it in a thread."""
    from datafile_sidecar.bus import compression

    frame = compression.change(base, body)
    return Change(base_sha256, sha256, frame) if len(frame) < bus_message.MAX_MESSAGE_BYTES else None


CURRENT: Final = Form("current", names.value_key, names.changes_channel, _compressed, _decompressed, bus_message.encode)
EARLIER: Final = Form(
    "earlier",
    names.earlier_value_key,
    names.earlier_channel,
    bus_record.deflated,
    bus_record.inflated,
    lambda head, *_: head.encode(),
)
