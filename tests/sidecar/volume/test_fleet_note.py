"""The note that tells a sidecar which names its predecessors on the same volume had."""

import os
import shutil
from pathlib import Path

import pytest

from datafile_sidecar.volume.fleet_note import FleetNote, exchange


def test_each_sidecar_knows_those_before_it(tmp_path: Path) -> None:
    """Also those that never reached the bus; the last sixteen are kept, and the keys that they served."""
    assert exchange(tmp_path, "a/1", ["KEY1"]) == FleetNote()
    assert exchange(tmp_path, "a/2", ["KEY2"]).names == ("a/1",)
    third = exchange(tmp_path, "a/3", ["KEY2"])
    assert (third.names, set(third.sdk_keys)) == (("a/1", "a/2"), {"KEY1", "KEY2"})
    for number in range(4, 30):
        exchange(tmp_path, f"a/{number}", ["KEY1"])
    assert exchange(tmp_path, "a/30", []).names == tuple(f"a/{number}" for number in range(14, 30))


def test_a_copy_of_the_volume_is_another_one(tmp_path: Path) -> None:
    """The sidecar of a volume that was made from a snapshot removes no pod, for the other one may live."""
    first, copy = tmp_path / "first", tmp_path / "copy"
    first.mkdir()
    exchange(first, "a/1", ["KEY1"])
    shutil.copytree(first, copy)
    assert exchange(copy, "b/1", ["KEY1"]) == FleetNote()
    assert exchange(first, "a/2", ["KEY1"]).names == ("a/1",)


@pytest.mark.parametrize("content", [b"", b"[]", b'{"names":"a/1"}', b"\xff", b"{" * 70_000])
def test_a_note_that_makes_no_sense(tmp_path: Path, content: bytes) -> None:
    """It is as if it were not there, and is replaced."""
    (tmp_path / ".datafile-sidecar.fleet").write_bytes(content)
    assert exchange(tmp_path, "a/1", ["KEY1"]) == FleetNote()
    assert exchange(tmp_path, "a/2", ["KEY1"]).names == ("a/1",)


def test_a_pipe_in_its_place_hangs_nothing(tmp_path: Path) -> None:
    """Another container of the pod can't keep the sidecar from registering."""
    os.mkfifo(tmp_path / ".datafile-sidecar.fleet")
    assert exchange(tmp_path, "a/1", ["KEY1"]) == FleetNote()
    assert exchange(tmp_path, "a/2", ["KEY1"]).names == ("a/1",)


def test_a_volume_that_is_gone(tmp_path: Path) -> None:
    """A note that can't be written is no error."""
    assert exchange(tmp_path / "gone", "a/1", ["KEY1"]) == FleetNote()
