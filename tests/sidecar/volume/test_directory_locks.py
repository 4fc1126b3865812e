"""Which processes hold a lock on the directory: all that do, by the kernel's word, or a refusal to say."""

import contextlib
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from datafile_sidecar.volume import directory_locks
from datafile_sidecar.volume.directory_locks import MAX_LOCKS, DirectoryLocks, UnlistableError, UnsupportedError
from tests.sidecar.volume.locking import locked


@pytest.fixture
def locks(tmp_path: Path) -> Iterator[DirectoryLocks]:
    locks = DirectoryLocks.open(tmp_path)
    yield locks
    locks.close()


@pytest.mark.parametrize("count", [0, 1, 2, 100, MAX_LOCKS])
def test_every_lock_is_found(tmp_path: Path, locks: DirectoryLocks, count: int) -> None:
    """Whichever of them are expected, none is missing: at both ends, beside each other, and far apart."""
    chosen = random.Random(count)
    offsets = [0, 1, 2**62 - 1, 2**40, 2**40 + 1][:count]
    offsets += chosen.sample(range(2, 2**39), max(0, count - len(offsets)))
    with contextlib.ExitStack() as stack:
        for offset in offsets:
            stack.enter_context(locked(tmp_path, (offset, 1)))
        for expected in ((), offsets, offsets[::2], [5, 2**61, *offsets[1::3]]):
            assert locks.held(expected) == set(offsets)
        assert all(locks.is_held(offset) for offset in offsets)
        assert not locks.is_held(2**50 + 7)
    assert locks.held(offsets) == frozenset()


@pytest.mark.parametrize(
    ("hostile", "problem"),
    [
        ([(100, 2)], "a process has locked 2 bytes of the directory, not one byte"),
        ([(0, 0)], "a process has locked everything of the directory, not one byte"),
        ([(50, 2**61)], "not one byte"),
        ([(10, 1), (11, 1)], "not one byte"),  # the kernel merges the locks of one descriptor
        ([(2 * number, 1) for number in range(MAX_LOCKS + 1)], "more than 256 processes"),
        ([(2 * number, 1) for number in range(10_000)], "more than 256 processes"),
    ],
)
def test_what_may_hide_a_process_is_said(
    tmp_path: Path, locks: DirectoryLocks, hostile: list[tuple[int, int]], problem: str
) -> None:
    """A container that locks what it likes makes the list unknown, never shorter, and never slow."""
    with locked(tmp_path, (7_000_000, 1)), locked(tmp_path, *hostile), pytest.raises(UnlistableError, match=problem):
        locks.held([7_000_000])


def test_a_listing_that_takes_too_long_is_given_up(
    tmp_path: Path, locks: DirectoryLocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow file system, or very many locks of other kinds, are named instead of waited for."""
    monkeypatch.setattr(directory_locks, "_LISTED_WITHIN_S", 0.0)
    with locked(tmp_path, (1, 1)), pytest.raises(UnlistableError, match="took more than 0 ms"):
        locks.held()


def test_where_there_are_no_such_locks_that_is_said(locks: DirectoryLocks, monkeypatch: pytest.MonkeyPatch) -> None:
    """On another system, or a file system that refuses them, the connections are all that there is."""
    monkeypatch.setattr(directory_locks, "_GETLK", 9999)
    with pytest.raises(UnsupportedError):
        locks.held()
    assert not locks.is_held(1)
    monkeypatch.setattr(directory_locks, "_GETLK", None)
    with pytest.raises(UnsupportedError):
        locks.held()


def test_a_replaced_directory_is_noticed(tmp_path: Path) -> None:
    """Locks on a directory that readers don't see any more say nothing of them."""
    path = tmp_path / "volume"
    path.mkdir()
    locks = DirectoryLocks.open(path)
    assert locks.is_in_place()
    path.rename(tmp_path / "away")
    assert not locks.is_in_place()
    path.mkdir()
    assert not locks.is_in_place()
    locks.close()


def test_the_note_is_for_the_next_sidecar_of_this_directory(tmp_path: Path, locks: DirectoryLocks) -> None:
    """A copy of the volume has other processes, and a damaged note is none."""
    assert not locks.is_vouched()
    locks.vouch()
    assert locks.is_vouched()
    (note,) = tmp_path.iterdir()
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / note.name).write_bytes(note.read_bytes())
    other = DirectoryLocks.open(copy)
    assert not other.is_vouched()
    other.close()
    note.write_text("{")
    assert not locks.is_vouched()
    locks.vouch()
    locks.disown()
    locks.disown()
    assert not locks.is_vouched()
    assert os.listdir(tmp_path) == ["copy"]
