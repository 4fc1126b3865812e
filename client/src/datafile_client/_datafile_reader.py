"""Reads the datafile and says when to read it again. Knows files and file watchers, and nothing of the SDK.

A file system event and a tick of the clock are only reasons to look. Both end in `DatafileReader.read_if_changed`, where the
digest decides.
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
# A step of 10 ms costs 0.27 % of a core and reports an event within 16 ms. `force_polling` stays off: our tick replaces it.
_WATCH: Any = {"step": 10, "debounce": 50, "recursive": False, "force_polling": False, "raise_interrupt": False}

# watchfiles initializes a lock-protected value at its first watch. A child forked at that moment would wait for the lock for
# ever. One short watch at import does the initialization before this package starts any thread.
with contextlib.suppress(OSError, RuntimeError):
    _first_watch: Any = _WATCH | {"step": 1, "rust_timeout": 1, "yield_on_timeout": True}
    next(watchfiles.watch(os.sep, stop_event=threading.Event(), **_first_watch))

_log = logging.getLogger("datafile_client")
_Fingerprint = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class FileContent:
    """The bytes of one version of a file; `prevalidated` says that the sidecar has validated exactly these bytes."""

    path: Path
    data: bytes
    sha256: str
    prevalidated: bool = False


class DatafileReader:
    """Reads one SDK key's datafile in one directory.

    Belongs to one process and to one thread at a time. Only `prevalidated` may be called from any thread.
    """

    def __init__(self, directory: Path, sdk_key: str) -> None:
        self.path = directory / f"{sdk_key}.json"
        self._fingerprint: _Fingerprint | None = None
        self._watch_error: str | None = None

    def read_if_changed(self) -> FileContent | None:
        """Read the file if it was written since the last call.

        Returns:
            The content, or None when the file has not been touched.

        Raises:
            InvalidDatafileError: the file is missing or cannot be read.
        """
        # A failed read leaves no fingerprint, so that the next call reads the file again.
        known, self._fingerprint = self._fingerprint, None
        data, self._fingerprint = _read(self.path, known)
        if self._fingerprint == known:
            return None
        sha256 = hashlib.sha256(data).hexdigest()
        return FileContent(self.path, data, sha256, self.prevalidated(sha256)[0])

    def prevalidated(self, sha256: str) -> tuple[bool, datetime.datetime | None]:
        """Look into the sidecar's status file for the datafile with this digest.

        Returns:
            Whether the sidecar has validated it, and when it last found that it is the newest (None: unknown).
        """
        with contextlib.suppress(Exception):  # a broken status file is the same as none
            status = json.loads(_read(self.path.with_suffix(".status.json"))[0])
            # repr, because True == 1 in Python. An unknown schema means that the client validates for itself.
            if repr(status["schema"]) == "1" and status["sha256"] == sha256:
                checked = status.get("checked")
                is_text = isinstance(checked, str)
                return True, datetime.datetime.fromisoformat(checked).astimezone(datetime.UTC) if is_text else None
        return False, None

    def events(self, wake: threading.Event, tick_s: float) -> Iterator[bool]:
        """Yield each time the file should be looked at. Never ends by itself.

        The directory may be missing, appear late, be replaced, or be on a mount without events. Where no file watcher can
        start, only the tick and `wake` remain.

        Args:
            wake: set it to get a value at once.
            tick_s: the longest pause between two values, in seconds.

        Yields:
            True for an event, False when only the tick has passed.
        """
        while True:
            wake.clear()
            yield True  # for what happened while no watch was active
            try:
                yield from self._watch(wake, tick_s)
            except (OSError, RuntimeError) as error:
                if str(error) != self._watch_error:  # once, not at every tick
                    self._watch_error = str(error)
                    _log.warning("Cannot watch for changes (%s); checking the file every %g s instead", error, tick_s)
                wake.wait(tick_s)

    def _watch(self, wake: threading.Event, tick_s: float) -> Iterator[bool]:
        watched = os.stat(self.path.parent)
        tick: Any = {"rust_timeout": round(tick_s * 1000), "yield_on_timeout": True, "stop_event": wake}
        changes = watchfiles.watch(self.path.parent, watch_filter=self._is_relevant, **_WATCH, **tick)
        with contextlib.closing(changes):
            for number, change in enumerate(changes):
                self._watch_error = None
                # After the directory is replaced, the watch stays alive but reports nothing.
                if not os.path.samestat(watched, os.stat(self.path.parent)):
                    return
                yield bool(change) or number == 0  # a change before the watch began gave no event

    def _is_relevant(self, _: object, path: str) -> bool:
        return os.path.basename(path) in (self.path.name, "..data")


def read_file(path: Path) -> FileContent:
    """Read a regular file.

    Raises:
        InvalidDatafileError: it cannot be read, is not a regular file, or is larger than `MAX_BYTES`.
    """
    data, _ = _read(path)
    return FileContent(path, data, hashlib.sha256(data).hexdigest())


def _read(path: Path, known: _Fingerprint | None = None) -> tuple[bytes, _Fingerprint]:
    """Return the file's bytes and fingerprint. The bytes are empty when the fingerprint is the known one."""
    try:
        if known is not None and _fingerprint_of(os.stat(path)) == known:
            return b"", known
        # Non-blocking, because opening a FIFO would otherwise wait for a writer.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise InvalidDatafileError(path, "not a regular file")
            if status.st_size > MAX_BYTES:
                raise InvalidDatafileError(path, f"{status.st_size} bytes are more than the {MAX_BYTES} allowed")
            return file.read(MAX_BYTES + 1), _fingerprint_of(status)
    except OSError as error:
        raise InvalidDatafileError(path, error.strerror or str(error)) from error


def _fingerprint_of(status: os.stat_result) -> _Fingerprint:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def is_mount_point(path: Path) -> bool:
    """Tell whether this single file is a mount (`subPath`), which does not follow a rename in its directory."""
    # The list has real paths (/var/run is usually a link), with spaces written as octal numbers.
    mount_point = os.path.realpath(path).replace(" ", "\\040")
    with contextlib.suppress(OSError), open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as mounts:
        return any(mount_point in line.split(" ")[4:5] for line in mounts)
    return False
