"""The lock that shows that a process lives, as the kernel shows it to others."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from datafile_client import _presence_lock
from datafile_client._presence_lock import PresenceLock
from datafile_sidecar.volume.directory_locks import DirectoryLocks
from tests.client.helpers import forked, wait_until
from tests.descriptors import open_below

OFFSET = 17 << 32 | 0x0A1B2C3D


def held(directory: Path) -> list[int]:
    locks = DirectoryLocks.open(directory)
    try:
        return sorted(locks.held())
    finally:
        locks.close()


def test_the_lock_is_there_until_it_is_closed(directory: Path) -> None:
    """The sidecar sees it at once, and no more when the watcher has stopped."""
    lock = PresenceLock(directory, OFFSET)
    assert lock.acquire()
    assert lock.is_held
    assert lock.is_in_place()
    assert held(directory) == [OFFSET]
    lock.close()
    assert held(directory) == []
    assert open_below(directory) == []


def test_a_stopped_process_is_there_and_a_killed_one_is_not(directory: Path) -> None:
    """What the kernel keeps needs no sidecar that remembers, and no age that somebody guesses."""
    code = f"""
import sys, time
from pathlib import Path
from datafile_client._presence_lock import PresenceLock
lock = PresenceLock(Path(sys.argv[1]), {OFFSET})
assert lock.acquire()
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code, str(directory)]) as process:
        try:
            wait_until(lambda: held(directory) == [OFFSET])
            process.send_signal(signal.SIGSTOP)
            assert held(directory) == [OFFSET]
        finally:
            process.kill()
        wait_until(lambda: held(directory) == [])


def test_a_child_takes_nothing_with_it(directory: Path) -> None:
    """A child that lives on does not stand for its dead parent, and one that ends does not take its parent's lock along."""
    lock = PresenceLock(directory, OFFSET)
    lock.acquire()
    os.waitpid(forked(0), 0)
    assert held(directory) == [OFFSET]
    child = forked()
    try:
        lock.close()
        wait_until(lambda: held(directory) == [])
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_replaced_directory_is_noticed(directory: Path) -> None:
    """A lock on a directory that the sidecar does not see any more shows nothing."""
    lock = PresenceLock(directory, OFFSET)
    assert lock.acquire()
    directory.rename(directory.with_name("away"))
    assert not lock.is_in_place()
    directory.mkdir()
    assert not lock.is_in_place()
    lock.close()


@pytest.mark.parametrize("command", [None, 9999])
def test_where_there_are_no_such_locks_the_app_works(
    directory: Path, command: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On another system, or a mount that refuses them."""
    monkeypatch.setattr(_presence_lock, "_SETLK", command)
    lock = PresenceLock(directory, OFFSET)
    assert not lock.acquire()
    assert not PresenceLock(directory / "missing", OFFSET).acquire()
    assert open_below(directory) == []
