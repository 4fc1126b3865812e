"""The log of this package. A filter or handler of the app that raises ends none of our threads and no request.

`logging.config` disables existing loggers unless it is told not to. Warnings then go to the root logger.
"""

import contextlib
import logging
from typing import Any

from datafile_client._clock import monotonic

_NAME = "datafile_client"
_EVERY_S = 60.0
_said: dict[str, float] = {}


def info(text: str, *values: object) -> None:
    """Log what goes well."""
    _log(logging.INFO, text, values)


def warning(text: str, *values: object, exc_info: Any = None) -> None:
    """Log what somebody should look at."""
    _log(logging.WARNING, text, values, exc_info)


def error(text: str, *values: object, exc_info: Any = None) -> None:
    """Log what fails."""
    _log(logging.ERROR, text, values, exc_info)


def error_now_and_then(text: str, *values: object, exc_info: Any = None) -> None:
    """Log what may fail without end: each text once a minute."""
    if monotonic() - _said.get(text, float("-inf")) >= _EVERY_S:
        _said[text] = monotonic()
        _log(logging.ERROR, text, values, exc_info)


def _log(level: int, text: str, values: tuple[object, ...], exc_info: Any = None) -> None:
    logger = logging.getLogger(_NAME)
    if logger.disabled and level >= logging.WARNING:
        logger = logging.getLogger()
    with contextlib.suppress(Exception, SystemExit):
        logger.log(level, text, *values, exc_info=exc_info)
