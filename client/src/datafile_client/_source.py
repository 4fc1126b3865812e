"""Directory → new bytes. Knows files and watchers; knows nothing of the SDK.

An event is only a hint, and so is the tick of the clock: both end in `Source.look`, where the digest decides.
"""

import contextlib
import datetime
import errno
import hashlib
import json
import logging
import os
import stat
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import watchfiles

from datafile_client.errors import InvalidDatafileError

MAX_BYTES = 8 * 1024 * 1024
_STATUS_MAX_BYTES = 64 * 1024
_STATUS_SCHEMA = 1
# watchfiles answers after some 1.5 steps: 16 ms for 0.27 % of a core. Its default debounce is 1,600 ms.
_STEP_MS = 10
_DEBOUNCE_MS = 50

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
        self._names = {self.path.name, "..data"}
        self._mark: _Mark | None = None
        self._sha256: str | None = None
        self._trouble: str | None = None

    def look(self) -> Found | None:
        """Return what is new, or None when nothing is.

        Raises:
            InvalidDatafileError: the file is missing or cannot be read.
        """
        try:
            if _mark_of(os.stat(self.path)) == self._mark:
                return None
            data, self._mark = read_datafile(self.path)
        except (OSError, InvalidDatafileError) as error:
            self._mark = self._sha256 = None
            raise InvalidDatafileError(self.path, _in_words(error)) from error
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
            if type(status["schema"]) is not int or status["schema"] != _STATUS_SCHEMA:
                return None
            return Vouched(str(status["sha256"]), _time(status.get("checked")))
        except (OSError, InvalidDatafileError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
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
            wake.wait(0 if wake.is_set() else tick_s)

    def _watch(self, wake: threading.Event, tick_s: float) -> Iterator[bool]:
        watched = self._directory_mark()
        changes = watchfiles.watch(
            self._directory,
            watch_filter=lambda _, path: os.path.basename(path) in self._names,
            step=_STEP_MS,
            debounce=_DEBOUNCE_MS,
            stop_event=wake,
            rust_timeout=round(tick_s * 1000),
            yield_on_timeout=True,
            raise_interrupt=False,
            force_polling=False,  # our own tick sees what watchfiles' polling misses
            recursive=False,
        )
        with contextlib.closing(changes):
            for change in changes:
                if self._trouble is not None:
                    _log.info("Watching %s again", self._directory)
                    self._trouble = None
                # A replaced directory leaves a watch that is alive and deaf.
                if self._directory_mark() != watched:
                    return
                yield bool(change)

    def _directory_mark(self) -> _Mark | None:
        try:
            found = os.stat(self._directory)
        except OSError:
            return None
        return (found.st_dev, found.st_ino)

    def _report(self, error: Exception, tick_s: float) -> None:
        trouble = f"{self._directory} does not exist" if isinstance(error, FileNotFoundError) else str(error)
        if trouble != self._trouble:
            self._trouble = trouble
            _log.warning("Cannot watch for changes (%s); looking every %g s instead", trouble, tick_s)


def read_datafile(path: Path) -> tuple[bytes, _Mark]:
    """Read a regular file of a bearable size, with the mark that tells this version of it from another.

    Raises:
        OSError: it cannot be opened or read.
        InvalidDatafileError: it is no regular file, empty or larger than `MAX_BYTES`.
    """
    data, mark = _read(path, MAX_BYTES)
    if not data.strip():
        raise InvalidDatafileError(path, "the file is empty")
    return data, mark


def _read(path: Path, limit: int) -> tuple[bytes, _Mark]:
    # Not blocking: a FIFO in the file's place would hold us for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise InvalidDatafileError(path, "not a regular file")
        if found.st_size > limit:
            raise InvalidDatafileError(path, f"{found.st_size} bytes are more than the {limit} allowed")
        return file.read(limit + 1), _mark_of(found)


def _mark_of(found: os.stat_result) -> _Mark:
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _in_words(error: OSError | InvalidDatafileError) -> str:
    if isinstance(error, InvalidDatafileError):
        return error.reason
    if error.errno == errno.ENOENT:
        return "there is no such file"
    return os.strerror(error.errno) if error.errno else str(error)


def _time(text: object) -> datetime.datetime | None:
    if not isinstance(text, str):
        return None
    time = datetime.datetime.fromisoformat(text)
    return time if time.tzinfo is not None else None


def is_mount_of_its_own(path: Path) -> bool:
    """Tell whether this single file is a mount (`subPath`): a rename beside it is never seen through such a one."""
    try:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    wanted = os.path.abspath(path).replace(" ", "\\040")
    return any(line.split(" ")[4] == wanted for line in mounts.splitlines() if line.count(" ") > 4)
