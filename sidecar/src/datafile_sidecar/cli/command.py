"""What the modules of the commands share: their interface, types of arguments, and the error that ends a command."""

import argparse
import math
from collections.abc import Mapping
from typing import Protocol


class Command(Protocol):
    """What the module of a command has. The docstring of `run` is the command's help."""

    SUMMARY: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, options: argparse.Namespace, environ: Mapping[str, str], /) -> int: ...


class CommandError(Exception):
    """The command can't go on; its text is for the user."""

    def __init__(self, message: str, *, exit_status: int) -> None:
        super().__init__(message)
        self.exit_status = exit_status


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
