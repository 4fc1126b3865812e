"""Zstandard within bounds: what was sent comes back, and nothing that a stranger sends costs more than a datafile."""

import contextlib
import hashlib
import random
import re
import struct
from pathlib import Path

import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st

from datafile_sidecar.bus import compression
from datafile_sidecar.core.bus_record import BadRecordError
from datafile_sidecar.core.datafile import MAX_BYTES
from tests.datafiles import minimal, realistic

BASE, BODY = minimal(42), minimal(43)
_BLOCK, _LAST, _REPEATED = 128 << 10, 1, 2


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
    assert len(compression.applied(_unchecked(base, body), wrong)) == len(body)
    digests = {hashlib.sha256(text).digest() for text in (compression.applied(_unchecked(base, body), wrong), body)}
    assert len(digests) == 2


def _unchecked(base: bytes, body: bytes) -> bytes:
    """A change without the checksum of the library, as a stranger may send it."""
    options: dict[int, int] = {zstd.CompressionParameter.enable_long_distance_matching: 1}
    return zstd.compress(body, options=options, zstd_dict=zstd.ZstdDict(base, is_raw=True).as_prefix)


def bomb(size: int, said: int | None = -1, window_log: int = 17) -> bytes:
    """So many zeros, in a frame of four bytes for each 128 KiB, with a head that says another size if one is given."""
    said = size if said == -1 else said
    head = b"\x28\xb5\x2f\xfd" + (b"\x00" if said is None else b"\x80") + bytes([(window_log - 10) << 3])
    blocks = [min(_BLOCK, size - start) for start in range(0, size, _BLOCK)]
    packed = [struct.pack("<I", length << 3 | _REPEATED)[:3] + b"\0" for length in blocks]
    last = struct.pack("<I", blocks[-1] << 3 | _REPEATED | _LAST)[:3] + b"\0"
    return head + (b"" if said is None else struct.pack("<I", said)) + b"".join([*packed[:-1], last])


HOSTILE = {
    "empty": b"",
    "garbage": b"\xff" * 100,
    "not compressed": BODY,
    "cut off": compression.compressed(BODY)[:-1],
    "followed by data": compression.compressed(BODY) + b"x",
    "two frames": compression.compressed(BODY) * 2,
    "a frame after one that is skipped": b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd" + compression.compressed(BODY),
    "without its size": bomb(100, None),
    "a window of 256 MiB": bomb(MAX_BYTES, window_log=28),
    "a window of 16 MiB": bomb(MAX_BYTES, window_log=24),
    "more than a datafile may have": bomb(MAX_BYTES + 1),
    "512 MiB": bomb(512 << 20),
    "512 MiB that say they are 100 bytes": bomb(512 << 20, 100),
    "less than it says": bomb(100, 101),
    "more than it says": bomb(100, 99),
}


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
