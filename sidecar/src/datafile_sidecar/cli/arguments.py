"""Argument types that several commands share."""

import argparse
import math


def seconds(text: str) -> float:
    """Parse a duration in seconds, finite and not negative. Raises ArgumentTypeError."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return value


def decimal_number(text: str) -> int:
    """Parse ASCII digits, 18 at most. Raises ArgumentTypeError."""
    if text.isascii() and text.isdecimal() and len(text) < 19:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a decimal number")
