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

    data: bytes
    sha256: str
    vouched: bool = False


class Source:
    """One SDK key's datafile in one directory. Belongs to one process and, but for `vouched`, to one thread at a time."""

    def __init__(self, directory: Path, sdk_key: str) -> None:
        self.path = directory / f"{sdk_key}.json"
        self._directory = directory
        self._mark: _Mark | None = None
        self._trouble: str | None = None

    def look(self) -> Found | None:
        """Return what the file holds, or None when nobody has touched it since.

        Raises:
            InvalidDatafileError: the file is missing or cannot be read.
        """
        try:
            data, mark = _read(self.path, self._mark)
        except InvalidDatafileError:
            self._mark = None
            raise
        if mark == self._mark:
            return None
        self._mark = mark
        sha256 = hashlib.sha256(data).hexdigest()
        is_vouched, _ = self.vouched(sha256)
        return Found(data, sha256, is_vouched)

    def vouched(self, sha256: str) -> tuple[bool, datetime.datetime | None]:
        """Ask the sidecar's status file: has it validated the bytes of this digest, and when did it last find them the newest?"""
        try:
            status = json.loads(_read(self._directory / f"{self.path.stem}.status.json")[0])
            # True == 1 in Python, and a schema that we do not know means: validate yourself.
            if repr(status["schema"]) == "1" and status["sha256"] == sha256:
                return True, _time(status.get("checked"))
        except (InvalidDatafileError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            pass
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
                self._report(error, tick_s)
                wake.wait(tick_s)

    def _watch(self, wake: threading.Event, tick_s: float) -> Iterator[bool]:
        watched = os.stat(self._directory)
        tick: Any = {"rust_timeout": round(tick_s * 1000), "yield_on_timeout": True, "stop_event": wake}
        changes = watchfiles.watch(self._directory, watch_filter=self._is_ours, **_WATCH, **tick)
        with contextlib.closing(changes):
            for change in changes:
                self._trouble = None
                # A replaced directory leaves a watch that is alive and deaf.
                if not os.path.samestat(watched, os.stat(self._directory)):
                    return
                yield bool(change)

    def _is_ours(self, _: object, path: str) -> bool:
        return os.path.basename(path) in (self.path.name, "..data")

    def _report(self, error: Exception, tick_s: float) -> None:
        trouble = f"{self._directory} does not exist" if isinstance(error, FileNotFoundError) else str(error)
        if trouble != self._trouble:
            self._trouble = trouble
            _log.warning("Cannot watch for changes (%s); looking every %g s instead", trouble, tick_s)


def read_file(path: Path) -> Found:
    """Read a regular file of a bearable size.

    Raises:
        InvalidDatafileError: it cannot be read, is no regular file or larger than `MAX_BYTES`.
    """
    data, _ = _read(path)
    return Found(data, hashlib.sha256(data).hexdigest())


def _read(path: Path, known: _Mark | None = None) -> tuple[bytes, _Mark]:
    """Read the file and the mark of this version of it; nothing of a version that is known."""
    try:
        if known is not None and _mark_of(os.stat(path)) == known:
            return b"", known
        # Not blocking: a FIFO in the file's place would hold us for ever.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
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


def _time(text: object) -> datetime.datetime | None:
    time = datetime.datetime.fromisoformat(text) if isinstance(text, str) else None
    return time if time is not None and time.tzinfo is not None else None


def is_mount_of_its_own(path: Path) -> bool:
    """Tell whether this single file is a mount (`subPath`): a rename beside it is never seen through such a one."""
    wanted = os.path.abspath(path).replace(" ", "\\040")
    with contextlib.suppress(OSError):
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
        return any(wanted in line.split(" ")[4:5] for line in mounts.splitlines())
    return False
