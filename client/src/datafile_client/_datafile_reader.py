"""Reads the datafile. Knows files, and nothing of the SDK.

What the sidecar says, an event of the file system and a tick of the clock are only reasons to look. All end in
`DatafileReader.read_if_changed`, where the digest decides.
"""

import contextlib
import datetime
import hashlib
import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from datafile_client.errors import InvalidDatafileError

MAX_BYTES = 8 * 1024 * 1024
_CLOCK_SLACK = datetime.timedelta(seconds=2)
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

    def forget(self) -> None:
        """Let the next call read the file, whether it was written or not."""
        self._fingerprint = None

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
                at = (
                    datetime.datetime.fromisoformat(checked).astimezone(datetime.UTC)
                    if isinstance(checked, str)
                    else None
                )
                return True, None if at is None or is_in_the_future(at) else at
        return False, None


def is_in_the_future(moment: datetime.datetime) -> bool:
    """Tell whether a clock was set back since: such a moment vouches for nothing."""
    return moment > datetime.datetime.now(datetime.UTC) + _CLOCK_SLACK


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
