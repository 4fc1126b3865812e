"""What lives and dies with one process: the watching thread, its locks and its connection to the sidecar."""

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path

from datafile_client._report import Report
from datafile_client._source import Source

NEVER = float("-inf")
_JOIN_S = 1.0


class Engine:
    """Everything that a fork does not carry over; a child makes another."""

    def __init__(self, directory: Path, sdk_key: str) -> None:
        self.source = Source(directory, sdk_key)
        self.report = Report(directory, sdk_key)
        self.lock = threading.RLock()  # a log filter may ask the watcher for its revision while we load
        self.changed = threading.Condition()
        self.wake = threading.Event()
        self.stopping = False
        self.thread: threading.Thread | None = None
        self.ran_at = NEVER
        self.warned = False

    def launch(self, run: Callable[["Engine"], None], name: str) -> bool:
        """Start the thread, once; False where the system gives none."""
        with self.lock, contextlib.suppress(RuntimeError):
            if self.thread is None and not self.stopping:
                thread = threading.Thread(target=run, args=(self,), name=name, daemon=True)
                thread.start()
                self.thread = thread
        return self.stopping or self.thread is not None

    def announce(self) -> None:
        """Wake who waits for a swap, and the thread, which is the one to tell the listeners."""
        with self.changed:
            self.changed.notify_all()
        if self.thread is not threading.current_thread():
            self.wake.set()

    def stop(self) -> None:
        """End the thread and the connection, within a second."""
        self.stopping = True
        self.announce()
        if self.thread is not None and self.thread is not threading.current_thread():
            self.thread.join(_JOIN_S)
        self.report.close()
