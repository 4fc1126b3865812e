"""Zstandard within bounds: what was sent comes back, and nothing that a stranger sends costs more than a datafile."""

import contextlib
import hashlib
import random
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datafile_sidecar.bus import compression
from datafile_sidecar.core.bus_record import BadRecordError
from datafile_sidecar.core.datafile import MAX_BYTES
from tests.datafiles import minimal, realistic
from tests.hostile_frames import HOSTILE, bomb, unchecked_change

BASE, BODY = minimal(42), minimal(43)


@given(st.binary(min_size=8, max_size=2000), st.binary(max_size=2000))
def test_a_change_leads_from_its_base_to_the_datafile(base: bytes, body: bytes) -> None:
    """Whatever the two are, byte for byte; and a whole one needs no base."""
    assert compression.applied(compression.change(base, body), base) == body
    assert compression.decompressed(compression.compressed(body)) == body


@pytest.mark.parametrize(("size_kib", "most"), [(12, 100), (736, 200), (8000, 1500)])
def test_a_flipped_flag_is_a_small_change(size_kib: int, most: int) -> None:
    """However large the datafile is, its change fits into a message many times over."""
    base = realistic(size_kib, 42)
    body = realistic(size_kib, 43).replace(b'"Running"', b'"Paused"', 1)
    change = compression.change(base, body)
    assert len(change) < most
    assert compression.applied(change, base) == body


def test_the_largest_datafiles_change_into_each_other() -> None:
    """8 MiB that can't be compressed, against 8 MiB: also what was far away in the base is found again."""
    base = random.Random(1).randbytes(MAX_BYTES)
    body = base[MAX_BYTES // 2 :] + base[: MAX_BYTES // 2]
    change = compression.change(base, body)
    assert len(change) < MAX_BYTES / 100
    assert compression.applied(change, base) == body
    assert compression.decompressed(compression.compressed(body)) == body


def test_a_base_that_differs_by_one_byte_gives_other_bytes_and_no_error() -> None:
    """Which is why every caller compares digests."""
    base = realistic(200, 42)
    body = realistic(200, 43)
    wrong = base[:5000] + bytes([base[5000] ^ 1]) + base[5001:]
    assert len(compression.applied(unchecked_change(base, body), wrong)) == len(body)
    digests = {
        hashlib.sha256(text).digest() for text in (compression.applied(unchecked_change(base, body), wrong), body)
    }
    assert len(digests) == 2


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_frame_is_refused(kind: str) -> None:
    """As a whole datafile and as a change, with a reason that quotes nothing of it."""
    for reading in (compression.decompressed, lambda frame: compression.applied(frame, BASE)):
        with pytest.raises(BadRecordError) as caught:
            reading(HOSTILE[kind])
        assert len(str(caught.value)) < 100


@pytest.mark.parametrize("window_log", [17, 23])
def test_frames_of_the_right_kind_pass(window_log: int) -> None:
    """The hostile ones are refused for what they are, and not for how they were made here."""
    assert compression.decompressed(bomb(100, window_log=window_log)) == bytes(100)
    assert compression.decompressed(bomb(MAX_BYTES, window_log=window_log)) == bytes(MAX_BYTES)


@pytest.mark.parametrize("kind", ["8 MiB in 266 bytes", *HOSTILE])
def test_a_bomb_costs_no_more_than_a_datafile(kind: str) -> None:
    """8 MiB are unpacked, and no byte more: neither by a size that lies nor by a window that is larger."""
    frame = HOSTILE.get(kind, bomb(MAX_BYTES))
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from now on
    before = _peak_kib()
    for _ in range(3):
        with contextlib.suppress(BadRecordError):
            assert compression.applied(frame, BASE) == bytes(MAX_BYTES)
    assert _peak_kib() - before < 40_000
    assert len(bomb(MAX_BYTES)) < 300


def _peak_kib() -> int:
    [peak] = re.findall(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(peak)


def test_a_base_of_a_few_bytes_is_refused() -> None:
    """The library takes none; a stranger's change against one ends no connection."""
    with pytest.raises(BadRecordError):
        compression.applied(compression.change(BASE, BODY), b"1234567")
