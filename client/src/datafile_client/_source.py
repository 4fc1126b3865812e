"""Directory → new bytes. Knows files and watchers; knows nothing of the SDK.

An event is only a hint, and so is the tick of the clock: both end in `Source.look`, where the digest decides.
"""

import contextlib
import datetime
import hashlib
import json
import logging
import os
import stat
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import watchfiles

from datafile_client.errors import InvalidDatafileError

MAX_BYTES = 8 * 1024 * 1024
# A step of 10 ms means 16 ms to the event and 0.27 % of a core. Our own tick sees what watchfiles' polling misses.
_WATCH: Any = {"step": 10, "debounce": 50, "recursive": False, "force_polling": False, "raise_interrupt": False}

# watchfiles fills a cell of its own at its first watch. A child that is forked in that moment would wait for it for ever, so
# it happens here, before there is a thread of ours.
with contextlib.suppress(OSError, RuntimeError):
    _moment: Any = _WATCH | {"step": 1, "rust_timeout": 1, "yield_on_timeout": True}
    next(watchfiles.watch(os.sep, stop_event=threading.Event(), **_moment))

_log = logging.getLogger("datafile_client")
_Mark = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """A version of a file; `vouched` says that the sidecar has validated exactly these bytes."""

    path: Path
    data: bytes
    sha256: str
    vouched: bool = False


class Source:
    """One SDK key's datafile in one directory. Belongs to one process and, but for `vouched`, to one thread at a time."""

    def __init__(self, directory: Path, sdk_key: str) -> None:
        self.path = directory / f"{sdk_key}.json"
        self._mark: _Mark | None = None
        self._trouble: str | None = None

    def look(self) -> Found | None:
        """Return what the file holds, or None when nobody has touched it since.

        Raises:
            InvalidDatafileError: the file is missing or cannot be read.
        """
        known, self._mark = self._mark, None  # and none it is after a failure
        data, self._mark = _read(self.path, known)
        if self._mark == known:
            return None
        sha256 = hashlib.sha256(data).hexdigest()
        is_vouched, _ = self.vouched(sha256)
        return Found(self.path, data, sha256, is_vouched)

    def vouched(self, sha256: str) -> tuple[bool, datetime.datetime | None]:
        """Ask the sidecar's status file: has it validated the bytes of this digest, and when did it last find them the newest?"""
        with contextlib.suppress(Exception):  # whatever the file holds: at worst it is no word of the sidecar's
            status = json.loads(_read(self.path.with_suffix(".status.json"))[0])
            # True == 1 in Python, and a schema that we do not know means: validate yourself.
            if repr(status["schema"]) == "1" and status["sha256"] == sha256:
                checked = status.get("checked")
                is_text = isinstance(checked, str)
                return True, datetime.datetime.fromisoformat(checked).astimezone(datetime.UTC) if is_text else None
        return False, None

    def hints(self, wake: threading.Event, tick_s: float) -> Iterator[bool]:
        """Say again and again that it is time to look: True when there is a reason, False when only the tick passed.

        Never ends by itself. Setting `wake` gives a hint at once. The directory may be missing, come late, be replaced or
        be on a mount without events; where no watcher can start, only the tick and `wake` remain.
        """
        while True:
            wake.clear()
            yield True  # whatever happened while nobody watched
            try:
                yield from self._watch(wake, tick_s)
            except (OSError, RuntimeError) as error:
                if str(error) != self._trouble:  # once, not at every tick
                    self._trouble = str(error)
                    _log.warning("Cannot watch for changes (%s); looking every %g s instead", error, tick_s)
                wake.wait(tick_s)

    def _watch(self, wake: threading.Event, tick_s: float) -> Iterator[bool]:
        watched = os.stat(self.path.parent)
        tick: Any = {"rust_timeout": round(tick_s * 1000), "yield_on_timeout": True, "stop_event": wake}
        changes = watchfiles.watch(self.path.parent, watch_filter=self._is_ours, **_WATCH, **tick)
        with contextlib.closing(changes):
            for number, change in enumerate(changes):
                self._trouble = None
                # A replaced directory leaves a watch that is alive and deaf.
                if not os.path.samestat(watched, os.stat(self.path.parent)):
                    return
                yield bool(change) or number == 0  # what came before the watch began gave no event

    def _is_ours(self, _: object, path: str) -> bool:
        return os.path.basename(path) in (self.path.name, "..data")


def read_file(path: Path) -> Found:
    """Read a regular file of a bearable size.

    Raises:
        InvalidDatafileError: it cannot be read, is no regular file or larger than `MAX_BYTES`.
    """
    data, _ = _read(path)
    return Found(path, data, hashlib.sha256(data).hexdigest())


def _read(path: Path, known: _Mark | None = None) -> tuple[bytes, _Mark]:
    """Read the file and the mark of this version of it; nothing of a version that is known."""
    try:
        if known is not None and _mark_of(os.stat(path)) == known:
            return b"", known
        # Not blocking: a FIFO in the file's place would hold us for ever.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise InvalidDatafileError(path, "not a regular file")
            if found.st_size > MAX_BYTES:
                raise InvalidDatafileError(path, f"{found.st_size} bytes are more than the {MAX_BYTES} allowed")
            return file.read(MAX_BYTES + 1), _mark_of(found)
    except OSError as error:
        raise InvalidDatafileError(path, error.strerror or str(error)) from error


def _mark_of(found: os.stat_result) -> _Mark:
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def is_mount_of_its_own(path: Path) -> bool:
    """Tell whether this single file is a mount (`subPath`): a rename beside it is never seen through such a one."""
    wanted = os.path.realpath(path).replace(" ", "\\040")  # /var/run is a link in most images, and never in the list
    with contextlib.suppress(OSError), open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as mounts:
        return any(wanted in line.split(" ")[4:5] for line in mounts)
    return False
