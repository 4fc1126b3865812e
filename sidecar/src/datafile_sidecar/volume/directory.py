"""The shared directory. This is its only writer; `docs/contract.md` is what readers rely on.

Everything here blocks: callers on an event loop use a thread.
"""

import contextlib
import fcntl
import functools
import hashlib
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from datafile_sidecar.volume.held_file import HeldFile, Replaced
from datafile_sidecar.volume.status_file import Status

_TEMPORARY = re.compile(r"\.datafile-sidecar\..+\.tmp")
_MAX_STATUS_BYTES = 65536
_MODE = 0o644


class VolumeError(Exception):
    """The directory or a file in it can't be used; its text names the path and the cause."""


class VolumeBusyError(VolumeError):
    """Another sidecar publishes into this directory."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A datafile that an earlier sidecar left, and its status: each None where it is missing, or the status can't be parsed."""

    body: bytes | None
    status: Status | None


class Volume:
    """One directory, locked until `close` by a lock on the directory itself."""

    def __init__(self, directory: Path) -> None:
        """Lock the directory; create it if it is missing.

        Raises:
            VolumeBusyError: Another sidecar has locked it.
            VolumeError: It can't be opened or locked.
        """
        self._directory = directory
        self._known: dict[str, tuple[int, int, int]] = {}
        self.created = not os.path.exists(directory)
        try:
            if self.created:
                directory.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as problem:
            raise VolumeError(
                f"{directory} can't be opened ({problem.strerror}): mount the shared volume there, or name its path in DATAFILE_DIR"
            ) from problem
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as problem:
            os.close(self._lock)
            if isinstance(problem, BlockingIOError):
                raise VolumeBusyError(
                    f"another sidecar publishes into {directory}: stop it, or use a directory of its own"
                ) from problem
            raise VolumeError(f"{directory} can't be locked: {problem.strerror}") from problem

    def close(self) -> None:
        """Release the lock."""
        os.close(self._lock)

    def clean(self) -> list[str]:
        """Remove the temporary files of a writer that was killed; return their names.

        Raises:
            VolumeError: The directory can't be listed, or a file not be removed.
        """
        with _explained(self._directory, "can't be cleaned"):
            leftovers = [name for name in os.listdir(self._directory) if _TEMPORARY.fullmatch(name)]
            for name in leftovers:
                os.unlink(self._directory / name)
        return leftovers

    def load(self, sdk_key: str, max_bytes: int) -> Kept:
        """Return what is there of a key, not validated.

        Raises:
            VolumeError: The datafile can't be read, or has more than `max_bytes`.
        """
        path, body = self._path(sdk_key), None
        with _explained(path, "can't be read"), contextlib.suppress(FileNotFoundError):
            body = read_file(path, max_bytes)
            self._remember(sdk_key)
        return Kept(body, self.load_status(sdk_key))

    def load_status(self, sdk_key: str) -> Status | None:
        """Return what the status file of a key says, None where it is missing or can't be parsed."""
        with contextlib.suppress(OSError):
            return Status.decode(read_file(self._status_path(sdk_key), _MAX_STATUS_BYTES))
        return None

    def read(self, sdk_key: str, max_bytes: int) -> bytes:
        """Return the bytes that are there now.

        Raises:
            VolumeError: They can't be read, or are more than `max_bytes`.
        """
        path = self._path(sdk_key)
        with _explained(path, "can't be read"):
            return read_file(path, max_bytes)

    def is_intact(self, sdk_key: str, sha256: str, max_bytes: int) -> bool:
        """Tell whether the file that was published or loaded last is still there. A file that was only touched is."""
        with contextlib.suppress(OSError):
            identity = _identity(self._path(sdk_key))
            if self._known.get(sdk_key) == identity:
                return True
            if hashlib.sha256(read_file(self._path(sdk_key), max_bytes)).hexdigest() == sha256:
                self._known[sdk_key] = identity
                return True
        return False

    def publish(
        self, body: bytes, status: Status, on_renamed: Callable[[float], object] = lambda _: None
    ) -> Replaced | None:
        """Replace a key's datafile and its status file.

        1. Write both temporary files, whole, with their mode, to the disk.
        2. Rename the status, then the datafile that it describes: the status is never older than the datafile.
        3. Tell that it is there, before anything that may take long.
        4. Sync the directory, so that a power cut can't undo the renames.

        Args:
            on_renamed: Called with the moment of the rename, in seconds of `time.monotonic`.

        Returns:
            The file that was replaced and the new one, to be read later: nothing waits for that here. None where there was none.

        Raises:
            VolumeError: It could not be written; the old datafile is still there, whole.
        """
        path, status_path = self._path(status.sdk_key), self._status_path(status.sdk_key)
        with (
            _explained(path, "can't be written"),
            _written(path, body) as datafile,
            _written(status_path, status.encode()) as beside,
        ):
            before = HeldFile.open(path)
            beside.rename(status_path)
            renamed_at = time.monotonic()  # before it, for a reader may be faster than this thread
            datafile.rename(path)
            on_renamed(renamed_at)
            self._remember(status.sdk_key)
            # Readers have it already, and some mounts can't sync a directory.
            with contextlib.suppress(OSError):
                os.fsync(self._lock)
            after = HeldFile.open(path)
            return Replaced(before, after) if before and after else None

    def refresh(self, status: Status) -> None:
        """Replace a key's status file alone.

        Raises:
            VolumeError: It could not be written.
        """
        path = self._status_path(status.sdk_key)
        with _explained(path, "can't be written"), _written(path, status.encode()) as temporary:
            temporary.rename(path)

    def _path(self, sdk_key: str) -> Path:
        return self._directory / f"{sdk_key}.json"

    def _status_path(self, sdk_key: str) -> Path:
        return self._directory / f"{sdk_key}.status.json"

    def _remember(self, sdk_key: str) -> None:
        self._known[sdk_key] = _identity(self._path(sdk_key))


@contextlib.contextmanager
def _written(path: Path, content: bytes) -> Iterator[Path]:
    """Write a complete temporary file and give its name. It is to be renamed to `path`, or removed at the end."""
    temporary = path.with_name(f".datafile-sidecar.{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        with open(temporary, "xb", opener=functools.partial(os.open, mode=0o600)) as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), _MODE)
            os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _explained(path: Path, what: str) -> Iterator[None]:
    """Turn an OSError into a VolumeError that names the path."""
    try:
        yield
    except OSError as problem:
        raise VolumeError(f"{path} {what}: {problem.strerror or problem}") from problem


def read_file(path: Path, max_bytes: int) -> bytes:
    """Return the bytes of a regular file; one of another kind can't hang the reader.

    Raises:
        OSError: It can't be read, is another kind of file, or has more bytes.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(None, "not a regular file")
        with open(descriptor, "rb", closefd=False) as file:
            body = file.read(max_bytes + 1)
    finally:
        os.close(descriptor)
    if len(body) > max_bytes:
        raise OSError(None, f"larger than {max_bytes} bytes")
    return body


def _identity(path: Path) -> tuple[int, int, int]:
    found = os.stat(path, follow_symlinks=False)
    return found.st_ino, found.st_mtime_ns, found.st_size
