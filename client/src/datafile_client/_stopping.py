"""Lets one thread stop a watcher, and others wait for it, but no signal handler for the thread that it has interrupted."""

import os
import threading


class Stopping:
    """One call of `stop()`, by the thread that makes this."""

    def __init__(self) -> None:
        self._by = os.getpid(), threading.get_ident()
        self._ended = threading.Event()

    def end(self) -> None:
        """Note that everything is sent."""
        self._ended.set()

    def wait(self, timeout_s: float) -> None:
        """Wait for the end, unless it is this very thread that stops, or one of the parent process."""
        if self._by[0] == os.getpid() and self._by[1] != threading.get_ident():
            self._ended.wait(timeout_s)
