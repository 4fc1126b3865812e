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
_STATUS_MAX_BYTES = 64 * 1024
# A step of 10 ms means 16 ms to the event and 0.27 % of a core. Our own tick sees what watchfiles' polling misses.
_WATCH: Any = {"step": 10, "debounce": 50, "recursive": False, "force_polling": False, "raise_interrupt": False}

# watchfiles fills a cell of its own at its first watch. A child that is forked in that moment would wait for it for ever, so
# it happens here, before there is a thread of ours.
_over = threading.Event()
_over.set()
with contextlib.suppress(OSError, RuntimeError):
    next(watchfiles.watch(os.sep, stop_event=_over, **_WATCH | {"step": 1}), None)

_log = logging.getLogger("datafile_client")
_Mark = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """Bytes that were not seen before; `vouched` says that the sidecar has validated exactly these."""

    data: bytes
    sha256: str
    vouched: bool


@dataclass(frozen=True, slots=True)
class Vouched:
    """What the sidecar's status file says: the digest that it validated, and when it last found it to be the newest."""

    sha256: str
    checked: datetime.datetime | None


class Source:
    """One SDK key's datafile in one directory. Belongs to one process and, but for `vouched`, to one thread at a time."""

    def __init__(self, directory: Path, sdk_key: str) -> None:
        self.path = directory / f"{sdk_key}.json"
        self._directory = directory
        self._status_path = directory / f"{sdk_key}.status.json"
        self._mark: _Mark | None = None
        self._sha256: str | None = None
        self._trouble: str | None = None

    def look(self) -> Found | None:
        """Return what is new, or None when nothing is.

        Raises:
            InvalidDatafileError: the file is missing or cannot be read.
        """
        try:
            data, mark = _read(self.path, MAX_BYTES, self._mark)
            if mark == self._mark:
                return None
        except InvalidDatafileError:
            self._mark = self._sha256 = None
            raise
        self._mark = mark
        sha256 = hashlib.sha256(data).hexdigest()
        if sha256 == self._sha256:
            return None
        self._sha256 = sha256
        vouched = self.vouched()
        return Found(data, sha256, vouched is not None and vouched.sha256 == sha256)

    def vouched(self) -> Vouched | None:
        """Read the sidecar's status file; None when there is none that we understand."""
        try:
            data, _ = _read(self._status_path, _STATUS_MAX_BYTES)
            status = json.loads(data)
            # True == 1 in Python, and a schema that we do not know means: validate yourself.
            if repr(status["schema"]) != "1":
                return None
            return Vouched(str(status["sha256"]), _time(status.get("checked")))
        except (InvalidDatafileError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return None

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
        watched = self._directory_mark()
        tick: Any = {"rust_timeout": round(tick_s * 1000), "yield_on_timeout": True, "stop_event": wake}
        changes = watchfiles.watch(self._directory, watch_filter=self._is_ours, **_WATCH, **tick)
        with contextlib.closing(changes):
            for change in changes:
                self._trouble = None
                # A replaced directory leaves a watch that is alive and deaf.
                if self._directory_mark() != watched:
                    return
                yield bool(change)

    def _is_ours(self, _: object, path: str) -> bool:
        return os.path.basename(path) in (self.path.name, "..data")

    def _directory_mark(self) -> tuple[int, int] | None:
        with contextlib.suppress(OSError):
            found = os.stat(self._directory)
            return found.st_dev, found.st_ino
        return None

    def _report(self, error: Exception, tick_s: float) -> None:
        trouble = f"{self._directory} does not exist" if isinstance(error, FileNotFoundError) else str(error)
        if trouble != self._trouble:
            self._trouble = trouble
            _log.warning("Cannot watch for changes (%s); looking every %g s instead", trouble, tick_s)


def read_file(path: Path) -> bytes:
    """Read a regular file of a bearable size.

    Raises:
        InvalidDatafileError: it cannot be read, is no regular file or larger than `MAX_BYTES`.
    """
    return _read(path, MAX_BYTES)[0]


def _read(path: Path, limit: int, known: _Mark | None = None) -> tuple[bytes, _Mark]:
    """Read the file and the mark of this version of it; nothing of a version that is known."""
    try:
        if known is not None and _mark_of(os.stat(path)) == known:
            return b"", known
        # Not blocking: a FIFO in the file's place would hold us for ever.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise InvalidDatafileError(path, "not a regular file")
            if found.st_size > limit:
                raise InvalidDatafileError(path, f"{found.st_size} bytes are more than the {limit} allowed")
            return file.read(limit + 1), _mark_of(found)
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
