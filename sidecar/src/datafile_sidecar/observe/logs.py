"""Log lines: for people on a terminal, else one JSON object a line. Nothing that is logged can break a line or stop the process."""

import json
import logging
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog

from datafile_sidecar.observe.log_writer import Lines

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def configure(
    level: str, log_format: str | None, stream: TextIO | Lines | None = None
) -> structlog.typing.FilteringBoundLogger:
    """The process's one logger; what libraries log through `logging` comes out of it too. Writes to stderr."""
    lines = stream if isinstance(stream, Lines) else Lines(stream or sys.stderr)
    readable = log_format == "console" or (log_format is None and lines.isatty())
    renderer = (
        structlog.dev.ConsoleRenderer(colors=lines.isatty(), sort_keys=False, timestamp_key="time")
        if readable
        else _render_json
    )
    logger: structlog.typing.FilteringBoundLogger = structlog.wrap_logger(
        lines,
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
            structlog.processors.format_exc_info,
            *([_make_printable] if readable else []),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(handlers=[_Forward(logger)], level=max(logging.WARNING, _LEVELS[level]), force=True)
    return logger


def _make_printable(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Text from outside must not move the cursor or colour the terminal of who reads it."""
    for name, value in event.items():
        if isinstance(value, str) and name != "exception" and not value.isprintable():
            event[name] = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in value)
    return event


def _render_json(_: object, __: str, event: MutableMapping[str, Any]) -> str:
    first = {name: event.pop(name) for name in ("time", "level", "event") if name in event}
    fields = {**first, **event}
    try:
        return json.dumps(fields, default=repr, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        # What JSON has no word for: infinity, keys that are no text, a value that holds itself.
        return json.dumps({name: value if isinstance(value, str) else repr(value) for name, value in fields.items()})


class _Forward(logging.Handler):
    """What libraries say through `logging`, as events of ours."""

    def __init__(self, logger: structlog.typing.FilteringBoundLogger) -> None:
        super().__init__()
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except Exception:  # whatever a library's wrong format, or a `__str__` of its own, raises
            message = record.msg if isinstance(record.msg, str) else type(record.msg).__name__
        level = max((known for known in _LEVELS.values() if known <= record.levelno), default=logging.DEBUG)
        self._logger.log(level, "library.logged", logger=record.name, message=message, exc_info=record.exc_info)
