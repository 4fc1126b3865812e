"""The clock of our time limits."""

import time


def monotonic() -> float:
    """Return seconds of a clock that goes on when an app's tests freeze `time.monotonic`, as freezegun does."""
    return time.clock_gettime(time.CLOCK_MONOTONIC)
