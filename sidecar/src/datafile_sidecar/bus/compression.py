"""Zstandard, within bounds: whole datafiles, and the change that leads from one datafile to the next.

Loading it needs the extra `redis`. A sidecar without a bus does not load it; see `forms.py`.
"""

import sys
from typing import Final, cast

if sys.version_info >= (3, 14):
    from compression import zstd
    from compression.zstd import CompressionParameter, DecompressionParameter, ZstdDecompressor, ZstdDict
else:
    from backports import zstd
    from backports.zstd import CompressionParameter, DecompressionParameter, ZstdDecompressor, ZstdDict

from datafile_sidecar.core.bus_record import BadRecordError
from datafile_sidecar.core.datafile import MAX_BYTES

_MIN_BASE_BYTES: Final = 8
_WINDOW_LOG_MAX: Final = 23  # 8 MiB. Without a limit, a frame makes its reader allocate up to 128 MiB.
_COMPRESS: Final[dict[int, int]] = {CompressionParameter.compression_level: 3, CompressionParameter.checksum_flag: 1}
# Without long-distance matching, the change in a datafile of more than some hundred KiB is as large as the datafile.
_COMPRESS_CHANGE: Final = _COMPRESS | {CompressionParameter.enable_long_distance_matching: 1}
_DECOMPRESS: Final[dict[int, int]] = {DecompressionParameter.window_log_max: _WINDOW_LOG_MAX}


def compressed(body: bytes) -> bytes:
    """Return a datafile as one frame."""
    return zstd.compress(body, options=_COMPRESS)


def decompressed(frame: bytes) -> bytes:
    """Return the datafile in a frame. Raises BadRecordError."""
    return _decompressed(frame, None)


def change(base: bytes, body: bytes) -> bytes:
    """Return a frame that `applied` turns into `body` again, where it has exactly this base, of at least 8 bytes."""
    return zstd.compress(body, options=_COMPRESS_CHANGE, zstd_dict=_prefix(base))


def applied(frame: bytes, base: bytes) -> bytes:
    """Return what a change makes of this base.

    Another base than that of the change gives wrong bytes of the right length, and no error: the caller compares digests.

    Raises:
        BadRecordError: It is not one whole frame of at most 8 MiB that says its size.
    """
    if len(base) < _MIN_BASE_BYTES:
        raise BadRecordError("its base is too short")
    return _decompressed(frame, _prefix(base))


def _prefix(base: bytes) -> tuple[ZstdDict, int]:
    return ZstdDict(base, is_raw=True).as_prefix


def _decompressed(frame: bytes, prefix: tuple[ZstdDict, int] | None) -> bytes:
    decompressor = ZstdDecompressor(zstd_dict=prefix, options=_DECOMPRESS)
    try:
        size = cast("int | None", zstd.get_frame_info(frame).decompressed_size)
        body = b"" if size is None or size > MAX_BYTES else decompressor.decompress(frame, max_length=size + 1)
    except zstd.ZstdError as error:
        raise BadRecordError("its datafile can't be decompressed") from error
    if size is None or size > MAX_BYTES:
        raise BadRecordError(f"it does not say that its datafile has at most {MAX_BYTES} bytes")
    if not decompressor.eof or decompressor.unused_data or len(body) != size:
        raise BadRecordError("its datafile is cut off, or data follows it")
    return body
