"""Check the shared directory: that it exists, is the volume, is writable and has free space, and what it contains."""

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
_MIN_FREE_BYTES = _MIB
_RECOMMENDED_FREE_BYTES = 2 * datafile.MAX_BYTES
_TEST_FILE = ".datafile-sidecar.check-{}.tmp"
"""If this process is killed meanwhile, a sidecar removes a file of this name at its start."""


def check_directory(settings: Settings, environ: Mapping[str, str]) -> tuple[list[Finding], dict[str, int]]:
    """Check DATAFILE_DIR. Returns the findings, and the revision of each valid datafile in it by SDK key."""
    directory, in_a_pod = settings.dir, "KUBERNETES_SERVICE_HOST" in environ
    if problem := _unusable(directory, in_a_pod=in_a_pod):
        return [problem], {}
    findings = [_check_writable(directory), _check_mount(directory, in_a_pod=in_a_pod), _check_space(directory)]
    findings += _check_socket(directory / SOCKET)
    published = {}
    for key in settings.sdk_keys:
        finding, revision = _check_published(directory / f"{key}.json", key)
        findings.append(finding)
        if revision is not None:
            published[key] = revision
    return findings, published


def check_bootstrap(settings: Settings) -> list[Finding]:
    """Check the bootstrap file of each key."""
    if settings.bootstrap_dir is None:
        return []
    findings = []
    for key in settings.sdk_keys:
        path = settings.bootstrap_dir / f"{key}.json"
        problem, revision = _parse(path, key)
        if problem:
            message, fix = f"{path} can't be used: {problem}", "put a valid datafile of this SDK key there"
            findings.append(failed("bootstrap", message, fix))
        else:
            findings.append(ok("bootstrap", f"{path.name} is a valid datafile, revision {revision}"))
    return findings


def _unusable(directory: Path, *, in_a_pod: bool) -> Finding | None:
    """The finding when a sidecar could not use the directory: a sidecar opens it, or creates it if it does not exist."""
    fix = "mount the shared volume there, or set DATAFILE_DIR to its path"
    try:
        os.close(os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    except FileNotFoundError:
        if not os.access(_existing_parent(directory), os.W_OK | os.X_OK):
            return refused(_PART, f"directory {directory} does not exist and can't be created", fix)
        if in_a_pod:
            return failed(_PART, f"directory {directory} does not exist", fix)
        return warning(_PART, f"directory {directory} does not exist; the sidecar will create it", fix)
    except NotADirectoryError:
        return refused(_PART, f"{directory} is not a directory", fix)
    except OSError as error:
        return refused(_PART, f"{directory} can't be opened: {error.strerror}", _fix_for(error.errno))
    return None


def _existing_parent(path: Path) -> Path:
    """The longest part of the path that exists."""
    return next(parent for parent in path.absolute().parents if parent.exists())


def _check_writable(directory: Path) -> Finding:
    test_file = directory / _TEST_FILE.format(os.getpid())
    try:
        try:
            descriptor = os.open(test_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                os.write(descriptor, b"x")
            finally:
                os.close(descriptor)
        finally:
            test_file.unlink(missing_ok=True)
    except OSError as error:
        return failed(_PART, f"{directory} is not writable: {error.strerror}", _fix_for(error.errno))
    return ok(_PART, f"{directory} is writable")


def _fix_for(number: int | None) -> str:
    match number:
        case errno.EROFS:
            return "mount it read-write in the sidecar's container; only the app's mount should be read-only"
        case errno.ENOSPC | errno.EDQUOT:
            return "raise the volume's sizeLimit"
        case _:
            return f"give user {os.getuid()} read and write permission (in a pod: fsGroup in the securityContext)"


def _check_mount(directory: Path, *, in_a_pod: bool) -> Finding:
    mount_point = directory.resolve()
    while not os.path.ismount(mount_point):
        mount_point = mount_point.parent
    if mount_point == Path("/") and in_a_pod:
        return failed(
            _PART,
            f"{directory} is on the container's own file system, which other containers can't see",
            "mount an emptyDir there, in the sidecar's container and in the app's",
        )
    files = [path.name for path in directory.glob("*.json") if os.path.ismount(path)]
    if files:
        return failed(
            _PART,
            f"{files[0]} is mounted as a single file, so the app will never see an update",
            "mount the directory, not a single file by subPath",
        )
    return ok(_PART, f"its file system is mounted at {mount_point}")


def _check_space(directory: Path) -> Finding:
    free = shutil.disk_usage(directory).free
    needed = max([_MIN_FREE_BYTES, *(path.stat().st_size for path in directory.glob("[!.]*.json"))])
    available = f"{free / _MIB:,.1f} MiB free"
    fix = "raise the volume's sizeLimit (with medium: Memory, also the memory limit)"
    if free < needed:
        return failed(
            _PART,
            f"{available}, but the next datafile needs about {needed / _MIB:.1f} MiB besides the current one",
            fix,
        )
    if free < _RECOMMENDED_FREE_BYTES:
        return warning(
            _PART, f"{available}, less than two datafiles of the maximum size", f"{fix}, if yours may grow that large"
        )
    return ok(_PART, available)


def _check_socket(path: Path) -> list[Finding]:
    findings = []
    length = len(os.fsencode(path))
    if length > MAX_ADDRESS_BYTES:
        findings.append(
            warning(
                _PART,
                f"the path of {SOCKET} is {length} bytes long, and the limit is {MAX_ADDRESS_BYTES}: workers can connect only "
                "where /proc is mounted",
                "choose a shorter DATAFILE_DIR",
            )
        )
    if os.path.lexists(path) and not path.is_socket():
        findings.append(failed(_PART, f"{path} is not a socket, so workers can't connect", "remove that file"))
    return findings


def _check_published(path: Path, sdk_key: str) -> tuple[Finding, int | None]:
    if not os.path.lexists(path):
        return ok(_PART, f"{path.name} does not exist yet"), None
    problem, revision = _parse(path, sdk_key)
    if problem:
        return failed(_PART, f"{path} can't be used: {problem}", "remove it; the sidecar publishes a valid one"), None
    return ok(_PART, f"{path.name} is a valid datafile, revision {revision}"), revision


def _parse(path: Path, sdk_key: str) -> tuple[str | None, int | None]:
    """Parse a datafile. Returns the problem with it, or None and its revision."""
    try:
        with path.open("rb") as file:
            return None, datafile.parse(file.read(datafile.MAX_BYTES + 1), sdk_key).revision
    except OSError as error:
        return error.strerror, None
    except InvalidDatafileError as error:
        return str(error), None
