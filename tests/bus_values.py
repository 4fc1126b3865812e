"""What stands on the bus and is announced there, for tests: in today's form, unless another one is named."""

import hashlib
import time
from typing import Any

from datafile_sidecar.bus import change_between
from datafile_sidecar.bus.forms import CURRENT, Form
from datafile_sidecar.core import bus_message, bus_record, datafile
from datafile_sidecar.core.bus_record import Head, Record

KEY = "KEY1"


def head(body: bytes, **fields: Any) -> Head:
    """The true head of this datafile, fetched now, except for these fields."""
    parsed = datafile.parse(body, KEY)
    true: dict[str, Any] = {
        "generation": 0,
        "revision": parsed.revision,
        "sha256": parsed.sha256,
        "fetched": time.time(),
    }
    return Head(**(true | fields))


def value(described: Head, body: bytes, form: Form = CURRENT) -> bytes:
    """What stands on the broker for a datafile under this head."""
    return bus_record.encode(described, form.compress(body))


def read(stored: bytes, form: Form = CURRENT) -> Record:
    """The datafile in what stands on the broker."""
    return bus_record.decode(stored, KEY, form.decompress)


def message(described: Head, body: bytes, base: bytes | None = None, *, size: int = 0, listeners: int = 0) -> bytes:
    """What announces a datafile, with the change from this base."""
    digests = (hashlib.sha256(text).hexdigest() for text in (base or b"", body))
    change = None if base is None else change_between(base, next(digests), body, list(digests)[-1])
    return bus_message.encode(described, size, listeners, change)


def change_frame(base: bytes, body: bytes) -> bytes:
    """The change from one to the other, without anything around it."""
    change = change_between(base, "", body, "")
    assert change
    return change.frame
