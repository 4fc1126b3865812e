"""The shared directory: is it there, is it the volume, can it be written to, is there room, and what does it hold?"""

import errno
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from datafile_sidecar.config.settings import Settings
from datafile_sidecar.core import datafile
from datafile_sidecar.core.datafile import InvalidDatafileError
from datafile_sidecar.volume.local_socket import MAX_ADDRESS_BYTES
from datafile_sidecar.volume.workers import NAME as SOCKET

from .finding import Finding, failed, ok, refused, warning

_PART = "directory"
_MIB = 2**20
_LEAST_FREE = _MIB
_GOOD_FREE = 2 * datafile.MAX_BYTES
_PROBE = ".datafile-sidecar.check-{}.tmp"
"""A name that a sidecar removes at its start, should this process be killed meanwhile."""


def look_at_directory(told: Settings, environ: Mapping[str, str]) -> tuple[list[Finding], dict[str, int]]:
    """What there is to say, and the revision of each key's datafile that is there already."""
    directory, in_a_pod = told.directory, "KUBERNETES_SERVICE_HOST" in environ
    if problem := _unusable(directory, in_a_pod=in_a_pod):
        return [problem], {}
    findings = [_writable(directory), _mounted(directory, in_a_pod=in_a_pod), _space(directory)]
    findings += _socket(directory / SOCKET)
    held = {}
    for key in told.sdk_keys:
        finding, revision = _published(directory / f"{key}.json", key)
        findings.append(finding)
        if revision is not None:
            held[key] = revision
    return findings, held


def look_at_bootstrap(told: Settings) -> list[Finding]:
    """Whether what is to help in an outage would help."""
    if told.bootstrap_dir is None:
        return []
    paths = {key: told.bootstrap_dir / f"{key}.json" for key in told.sdk_keys}
    found = []
    for key, path in paths.items():
        problem, revision = _parsed(path, key)
        if problem:
            found.append(failed("bootstrap", f"{path} can't be used: {problem}", "put a datafile of that key there"))
        else:
            found.append(ok("bootstrap", f"{path.name} is a valid datafile of revision {revision}"))
    return found


def _unusable(directory: Path, *, in_a_pod: bool) -> Finding | None:
    """Why a sidecar could not take it, tried as a sidecar does: it opens the directory, and makes it where there is none."""
    mend = "mount the shared volume there, or name its path in DATAFILE_DIR"
    try:
        os.close(os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    except FileNotFoundError:
        if not os.access(_nearest(directory), os.W_OK | os.X_OK):
            return refused(_PART, f"there is no directory {directory}, and it can't be made", mend)
        if in_a_pod:
            return failed(_PART, f"there is no directory {directory}", mend)
        return warning(_PART, f"there is no directory {directory}; a sidecar would make it", mend)
    except NotADirectoryError:
        return refused(_PART, f"{directory} is no directory", mend)
    except OSError as error:
        return refused(_PART, f"{directory} can't be opened: {error.strerror}", _mend(error.errno))
    return None


def _nearest(path: Path) -> Path:
    """The part of a path that exists."""
    return next(parent for parent in path.absolute().parents if parent.exists())


def _writable(directory: Path) -> Finding:
    probe = directory / _PROBE.format(os.getpid())
    try:
        try:
            descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                os.write(descriptor, b"x")
            finally:
                os.close(descriptor)
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        return failed(_PART, f"{directory} can't be written to: {error.strerror}", _mend(error.errno))
    return ok(_PART, f"{directory} can be written to")


def _mend(number: int | None) -> str:
    match number:
        case errno.EROFS:
            return "mount it read-write for the sidecar: only the app's mount is read-only"
        case errno.ENOSPC | errno.EDQUOT:
            return "make room: raise the volume's sizeLimit"
        case _:
            return f"let user {os.getuid()} read and write there (in a pod: fsGroup in the securityContext)"


def _mounted(directory: Path, *, in_a_pod: bool) -> Finding:
    where = directory.resolve()
    while not os.path.ismount(where):
        where = where.parent
    if where == Path("/") and in_a_pod:
        return failed(
            _PART,
            f"{directory} lies on the container's own file system, where no other container sees it",
            "mount an emptyDir at it, in the sidecar's container and in the app's",
        )
    files = [path.name for path in directory.glob("*.json") if os.path.ismount(path)]
    if files:
        return failed(
            _PART,
            f"{files[0]} is mounted by itself, so it keeps its first content for ever",
            "mount the directory, never a single file by subPath",
        )
    return ok(_PART, f"it is on the file system that is mounted at {where}")


def _space(directory: Path) -> Finding:
    free = shutil.disk_usage(directory).free
    needed = max([_LEAST_FREE, *(path.stat().st_size for path in directory.glob("[!.]*.json"))])
    says = f"{free / _MIB:,.1f} MiB are free"
    mend = "raise the volume's sizeLimit (and, for medium: Memory, the memory limit with it)"
    if free < needed:
        return failed(_PART, f"{says}; the next datafile needs about {needed / _MIB:.1f} beside the present one", mend)
    if free < _GOOD_FREE:
        return warning(
            _PART, f"{says}, less than two of the largest datafiles need", f"{mend}, if yours grow that large"
        )
    return ok(_PART, says)


def _socket(path: Path) -> list[Finding]:
    findings = []
    if len(os.fsencode(path)) > MAX_ADDRESS_BYTES:
        findings.append(
            warning(
                _PART,
                f"the path of {SOCKET} has {len(os.fsencode(path))} bytes, and a socket's address takes {MAX_ADDRESS_BYTES}: "
                "workers are heard only where /proc is mounted",
                "choose a shorter DATAFILE_DIR",
            )
        )
    if os.path.lexists(path) and not path.is_socket():
        findings.append(failed(_PART, f"{path} is no socket, so no worker can be heard", "remove what is in its place"))
    return findings


def _published(path: Path, sdk_key: str) -> tuple[Finding, int | None]:
    if not os.path.lexists(path):
        return ok(_PART, f"there is no {path.name} yet"), None
    problem, revision = _parsed(path, sdk_key)
    if problem:
        return failed(
            _PART, f"{path} can't be used: {problem}", "remove it; the next good datafile takes its place"
        ), None
    return ok(_PART, f"{path.name} is a valid datafile of revision {revision}"), revision


def _parsed(path: Path, sdk_key: str) -> tuple[str | None, int | None]:
    """Why the file is no datafile of this key, or its revision."""
    try:
        with path.open("rb") as file:
            return None, datafile.parse(file.read(datafile.MAX_BYTES + 1), sdk_key).revision
    except OSError as error:
        return error.strerror, None
    except InvalidDatafileError as error:
        return str(error), None
