"""Run a command's coroutine, and handle SIGTERM and SIGINT meanwhile."""

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import Any

MAX_SHUTDOWN_S = 1.8
SWITCH_INTERVAL_S = 0.001
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_INTERRUPTED = 130


def run(work: Coroutine[Any, Any, int]) -> int:
    """Run work that ends by itself. Returns its exit status, or 130 after a signal."""
    for number in _SIGNALS:
        signal.signal(number, signal.default_int_handler)
    try:
        return asyncio.run(work)
    except KeyboardInterrupt:
        return _INTERRUPTED


def run_until_signalled(
    serve: Callable[[asyncio.Event], Coroutine[Any, Any, None]], on_signal: Callable[[str], None]
) -> None:
    """Run `serve(stop)` and set `stop` at the first signal.

    The process ends at once at a second signal, or when `serve` has not returned 1.8 s after the first.

    Args:
        on_signal: called with the name of the first signal.
    """
    # While another thread runs Python code, the event loop waits this long for its turn, 5 ms by default.
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    def handle(number: signal.Signals) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()
        deadline = threading.Timer(MAX_SHUTDOWN_S, os._exit, (0,))
        deadline.daemon = True
        deadline.start()
        on_signal(number.name)

    for number in _SIGNALS:
        loop.add_signal_handler(number, handle, number)
    loop.run_until_complete(serve(stop))
