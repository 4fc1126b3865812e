"""Check the shared directory: that it exists, is the volume, is writable and has free space, and what it contains."""

import errno
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from datafile_sidecar.cli.checks.finding import Finding, Report, failed, ok, refused, warning
from datafile_sidecar.config.settings import Settings
from datafile_sidecar.core import datafile
from datafile_sidecar.core.datafile import InvalidDatafileError
from datafile_sidecar.volume.local_socket import MAX_ADDRESS_BYTES
from datafile_sidecar.volume.workers import NAME as SOCKET

_PART = "directory"
_MIB = 2**20
_TEST_FILE = ".datafile-sidecar.check-{}.tmp"
"""If this process is killed meanwhile, a sidecar removes a file of this name at its start."""


def check_directory(settings: Settings, environ: Mapping[str, str], report: Report) -> dict[str, int | None]:
    """Check DATAFILE_DIR. Returns by SDK key the revision of its datafile there, None without a valid one."""
    directory, in_a_pod = settings.dir, "KUBERNETES_SERVICE_HOST" in environ
    if problem := _unusable(directory, in_a_pod=in_a_pod):
        report(problem)
        return {}
    report(_check_writable(directory))
    report(_check_mount(directory, in_a_pod=in_a_pod))
    report(_check_space(directory))
    for finding in _check_socket(directory / SOCKET):
        report(finding)
    return {key: _check_published(directory / f"{key}.json", key, report) for key in settings.sdk_keys}


def check_bootstrap(settings: Settings, report: Report) -> None:
    """Check the bootstrap file of each key."""
    if settings.bootstrap_dir is None:
        return
    for key in settings.sdk_keys:
        path, fix = settings.bootstrap_dir / f"{key}.json", "put a valid datafile of this SDK key there"
        _check_datafile("bootstrap", path, key, fix, report)


def _unusable(directory: Path, *, in_a_pod: bool) -> Finding | None:
    """The finding when a sidecar could not use the directory: a sidecar opens it, or creates it if it does not exist."""
    fix = "mount the shared volume there, or set DATAFILE_DIR to its path"
    try:
        os.close(os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    except FileNotFoundError:
        existing_parent = next(parent for parent in directory.absolute().parents if parent.exists())
        if not os.access(existing_parent, os.W_OK | os.X_OK):
            return refused(_PART, f"directory {directory} does not exist and can't be created", fix)
        if in_a_pod:
            return failed(_PART, f"directory {directory} does not exist", fix)
        return warning(_PART, f"directory {directory} does not exist; the sidecar will create it", fix)
    except NotADirectoryError:
        return refused(_PART, f"{directory} is not a directory", fix)
    except OSError as error:
        return refused(_PART, f"{directory} can't be opened: {error.strerror}", _fix_for(error))
    return None


def _check_writable(directory: Path) -> Finding:
    test_file = directory / _TEST_FILE.format(os.getpid())
    try:
        try:
            with test_file.open("xb") as file:
                file.write(b"x")
        finally:
            test_file.unlink(missing_ok=True)
    except OSError as error:
        return failed(_PART, f"{directory} is not writable: {error.strerror}", _fix_for(error))
    return ok(_PART, f"{directory} is writable")


def _fix_for(error: OSError) -> str:
    match error.errno:
        case errno.EROFS:
            return "mount it read-write in the sidecar's container; only the app's mount should be read-only"
        case errno.ENOSPC | errno.EDQUOT:
            return "raise the volume's sizeLimit"
        case _:
            return f"give user {os.getuid()} read and write permission (in a pod: fsGroup in the securityContext)"


def _check_mount(directory: Path, *, in_a_pod: bool) -> Finding:
    resolved = directory.resolve()
    mount_point = next(path for path in (resolved, *resolved.parents) if os.path.ismount(path))
    if mount_point == Path("/") and in_a_pod:
        message = f"{directory} is on the container's own file system, which other containers can't see"
        return failed(_PART, message, "mount an emptyDir there, in the sidecar's container and in the app's")
    for path in directory.glob("*.json"):
        if os.path.ismount(path):
            message = f"{path.name} is mounted as a single file, so the app will never see an update"
            return failed(_PART, message, "mount the directory, not a single file by subPath")
    return ok(_PART, f"its file system is mounted at {mount_point}")


def _check_space(directory: Path) -> Finding:
    free = shutil.disk_usage(directory).free
    needed = max([_MIB, *(path.stat().st_size for path in directory.glob("[!.]*.json"))])
    available = f"{free / _MIB:,.1f} MiB free"
    fix = "raise the volume's sizeLimit (with medium: Memory, also the memory limit)"
    if free < needed:
        message = f"{available}, but the next datafile needs about {needed / _MIB:.1f} MiB besides the current one"
        return failed(_PART, message, fix)
    if free < 2 * datafile.MAX_BYTES:
        message = f"{available}, less than two datafiles of the maximum size"
        return warning(_PART, message, f"{fix}, if yours may grow that large")
    return ok(_PART, available)


def _check_socket(path: Path) -> Iterator[Finding]:
    length, limit = len(os.fsencode(path)), MAX_ADDRESS_BYTES
    if length > limit:
        consequence = "workers can connect only where /proc is mounted"
        message = f"the path of {SOCKET} is {length} bytes long, and the limit is {limit}: {consequence}"
        yield warning(_PART, message, "choose a shorter DATAFILE_DIR")
    if os.path.lexists(path) and not path.is_socket():
        yield failed(_PART, f"{path} is not a socket, so workers can't connect", "remove that file")


def _check_published(path: Path, sdk_key: str, report: Report) -> int | None:
    if os.path.lexists(path):
        return _check_datafile(_PART, path, sdk_key, "remove it; the sidecar publishes a valid one", report)
    report(ok(_PART, f"{path.name} does not exist yet"))
    return None


def _check_datafile(part: str, path: Path, sdk_key: str, fix: str, report: Report) -> int | None:
    """Report whether a datafile is valid. Returns its revision, None if it is invalid."""
    try:
        with path.open("rb") as file:
            revision = datafile.parse(file.read(datafile.MAX_BYTES + 1), sdk_key).revision
    except (OSError, InvalidDatafileError) as error:
        problem = error.strerror if isinstance(error, OSError) else error
        report(failed(part, f"{path} can't be used: {problem}", fix))
        return None
    report(ok(part, f"{path.name} is a valid datafile, revision {revision}"))
    return revision
