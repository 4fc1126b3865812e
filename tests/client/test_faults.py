"""Mounts and kernels that report no events: the real ones, which need root and Debian's strace and bindfs."""

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.client.helpers import ROOT, publish

pytestmark = pytest.mark.system

APP = """
import logging, sys
from datafile_client import OptimizelyWatcher
logging.basicConfig(level=logging.INFO)
with OptimizelyWatcher(sdk_key="KEY1", directory=sys.argv[1]) as watcher:
    print("up", flush=True)
    for revision in (2, 3):
        assert watcher.wait_for_revision(revision, timeout=20), watcher.status()
        print(revision, flush=True)
"""


def need(tool: str) -> str:
    """Return a tool's path; skip, and say what to install, where there is none."""
    if (path := shutil.which(tool)) is None:
        pytest.skip(f"{tool} is not installed: apt-get install {tool}")
    if os.geteuid() != 0:
        pytest.skip("needs root")
    return path


def follow(command: list[str], seen: Path, written: Path) -> str:
    """Run the app under `command`, publish twice, and return its log."""
    with subprocess.Popen(
        [*command, sys.executable, "-c", APP, seen], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as app:
        try:
            assert app.stdout is not None
            assert app.stderr is not None
            assert app.stdout.readline() == "up\n"
            for revision in (2, 3):
                publish(written, revision)
                started = time.monotonic()
                assert app.stdout.readline() == f"{revision}\n"
                assert time.monotonic() - started < 5
            assert app.wait(10) == 0
            return app.stderr.read()
        finally:
            app.kill()


@pytest.mark.parametrize("error", ["ENOSYS", "EMFILE", "ENOSPC"])
def test_a_kernel_without_inotify_is_polled(error: str, directory: Path) -> None:
    """A user on a node that has no inotify, or no more of it, gets new flags within seconds and reads one warning."""
    publish(directory, 1)
    strace = [need("strace"), "-f", "-qq", "-o", "/dev/null", "-e", f"inject=inotify_init1:error={error}"]
    log = follow(strace, directory, directory)
    assert log.count("Cannot watch for changes") == (error != "ENOSYS")  # there, watchfiles itself polls


@contextlib.contextmanager
def mirrored(directory: Path, mirror: Path) -> Iterator[None]:
    """Show the directory a second time through FUSE, where a write beneath gives no event."""
    subprocess.run([need("bindfs"), directory, mirror], check=True, timeout=10)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", mirror], check=True, timeout=10)


def test_a_mount_without_events_is_looked_at(directory: Path, tmp_path: Path) -> None:
    """A user under gVisor, Kata or FUSE, where the sidecar's write gives no event, gets new flags within seconds."""
    publish(directory, 1)
    (tmp_path / "mirror").mkdir()
    with mirrored(directory, tmp_path / "mirror"):
        follow([], tmp_path / "mirror", directory)


@pytest.mark.parametrize("way", ["itself", "link"])
def test_a_file_that_is_a_mount_of_its_own_is_warned_of(way: str, directory: Path, tmp_path: Path) -> None:
    """A user who mounted the file by subPath, which never changes, reads what to do."""
    publish(directory, 1)
    need("unshare")
    elsewhere = tmp_path / "with space" / "KEY1.json"
    elsewhere.parent.mkdir()
    elsewhere.touch()
    (tmp_path / "link").symlink_to(elsewhere.parent)  # as /var/run is one to /run
    seen = elsewhere.parent if way == "itself" else tmp_path / "link"
    script = 'mount --bind "$0/KEY1.json" "$1" && exec "$2" -c "$3" "$4"'
    app = APP.replace("(2, 3)", "()")
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, directory, elsewhere, sys.executable, app, seen],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Mount its directory instead" in done.stderr
