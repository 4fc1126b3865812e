"""The note in the directory that tells a sidecar which names its predecessors had on the bus: it replaces those, and no others.

The lock on the directory shows that a predecessor is dead. A copy of the directory is another one, whose sidecar may live.
"""

import contextlib
import os
from collections.abc import Collection
from pathlib import Path
from typing import Final

import msgspec

from datafile_sidecar.volume.directory import read_file

_NAME: Final = ".datafile-sidecar.fleet"
_MAX_BYTES: Final = 65536
_MAX_NAMES: Final = 16
_MAX_KEYS: Final = 1024


class FleetNote(msgspec.Struct, frozen=True):
    """The names on the bus of the sidecars of one directory, the newest last, and the SDK keys that they served."""

    device: int = 0
    inode: int = 0
    names: tuple[str, ...] = ()
    sdk_keys: tuple[str, ...] = ()


def exchange(directory: Path, name: str, sdk_keys: Collection[str]) -> FleetNote:
    """Return what the sidecars before this one noted, and note this one for the next. Blocks.

    A note that can't be written is left out: then a pod whose sidecar is killed stays on the bus until the user forgets it.
    """
    before = _read(directory)
    with contextlib.suppress(OSError):
        place = os.stat(directory)
        names, keys = (*before.names, name)[-_MAX_NAMES:], dict.fromkeys((*sdk_keys, *before.sdk_keys))
        note = FleetNote(place.st_dev, place.st_ino, names, tuple(keys)[:_MAX_KEYS])
        temporary = directory / f"{_NAME}.tmp"
        temporary.write_bytes(msgspec.json.encode(note))
        temporary.rename(directory / _NAME)
    return before


def _read(directory: Path) -> FleetNote:
    with contextlib.suppress(OSError, msgspec.MsgspecError, UnicodeError):
        place = os.stat(directory)
        note = msgspec.json.decode(read_file(directory / _NAME, _MAX_BYTES), type=FleetNote)
        if (note.device, note.inode) == (place.st_dev, place.st_ino):
            return note
    return FleetNote()
