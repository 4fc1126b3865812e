"""Memory that a large datafile took for a moment, given back to the pod."""

_M_MMAP_THRESHOLD = -3
_LARGE_BYTES = 64 * 1024


def give_back_large_blocks() -> None:
    """Have the C library return large blocks to the system when they are freed, as it does at first; later it tends to keep them.

    Does nothing where the C library has no such knob (musl).
    """
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
