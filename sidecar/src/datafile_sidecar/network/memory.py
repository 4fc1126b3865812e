"""Returns the memory that strangers' requests took to the operating system."""

import ctypes
import gc
from collections.abc import Callable


def release() -> None:
    """Collect garbage and return free memory.

    aiohttp's broken requests are reference cycles, which few allocations follow: Python would not collect them for hours. And the C
    library keeps what it has once got.
    """
    gc.collect()
    _trim(0)


def _malloc_trim() -> Callable[[int], object]:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):  # another C library than glibc
        return lambda _: None


_trim = _malloc_trim()
