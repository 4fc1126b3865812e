"""Zstandard frames as a stranger may send them, made by hand: each is refused, for the reason that it is named after."""

import struct
import sys

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

from datafile_sidecar.bus import compression
from datafile_sidecar.core.datafile import MAX_BYTES
from tests.datafiles import minimal

_BLOCK, _LAST, _REPEATED = 128 << 10, 1, 2
BODY = minimal(43)


def unchecked_change(base: bytes, body: bytes) -> bytes:
    """A change without the library's own checksum of the result."""
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
