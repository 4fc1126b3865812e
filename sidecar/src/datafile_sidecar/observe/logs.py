"""Log lines: readable on a terminal, else one JSON object per line. Nothing that is logged can break a line or stop the process."""

import json
import logging
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog
from structlog.typing import FilteringBoundLogger, Processor

from datafile_sidecar.core.display_text import printable
from datafile_sidecar.observe.log_writer import LogWriter

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def configure(level: str, log_format: str | None, stream: TextIO | LogWriter | None = None) -> FilteringBoundLogger:
    """Create the process's one logger; what libraries log through `logging` goes to it too.

    Args:
        level: The lowest level that is logged: debug, info, warning or error.
        log_format: "console" or "json"; None chooses by whether the stream is a terminal.
        stream: Where lines go; stderr by default.
    """
    writer = stream if isinstance(stream, LogWriter) else LogWriter(stream or sys.stderr)
    is_terminal = writer.stream.isatty()
    rendering: list[Processor] = [_render_json]
    if log_format == "console" or (log_format is None and is_terminal):
        console = structlog.dev.ConsoleRenderer(colors=is_terminal, sort_keys=False, timestamp_key="time")
        rendering = [_make_printable, console]
    logger: FilteringBoundLogger = structlog.wrap_logger(
        writer,
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
            structlog.processors.format_exc_info,
            *rendering,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(handlers=[_LibraryHandler(logger)], level=max(logging.WARNING, _LEVELS[level]), force=True)
    return logger


def _make_printable(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Keep text from outside from moving the cursor or colouring the terminal."""
    for name, value in event.items():
        if isinstance(value, str) and name != "exception":
            event[name] = printable(value)
    return event


def _render_json(_: object, __: str, event: MutableMapping[str, Any]) -> str:
    fields = {name: event.pop(name) for name in ("time", "level", "event")} | dict(event)
    try:
        return json.dumps(fields, default=repr, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        # JSON can't express infinity, keys that are not text, or a value that contains itself.
        return json.dumps({name: value if isinstance(value, str) else repr(value) for name, value in fields.items()})


class _LibraryHandler(logging.Handler):
    """Logs the records of other libraries as `library.logged` events."""

    def __init__(self, logger: FilteringBoundLogger) -> None:
        super().__init__()
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except Exception:  # a library's wrong format, or its own `__str__`, may raise anything
            message = record.msg if isinstance(record.msg, str) else type(record.msg).__name__
        level = max((known for known in _LEVELS.values() if known <= record.levelno), default=logging.DEBUG)
        self._logger.log(level, "library.logged", logger=record.name, message=message, exc_info=record.exc_info)
