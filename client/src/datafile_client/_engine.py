"""What lives and dies with one process: the watching thread, its locks and its connection to the sidecar."""

import threading
import time
from collections.abc import Callable

from datafile_client._report import Report
from datafile_client._source import Source

NEVER = float("-inf")
_JOIN_S = 1.0
_POLL_S = 0.05


class Engine:
    """Everything that a fork does not carry over; a child makes another."""

    def __init__(self, source: Source, report: Report) -> None:
        self.source = source
        self.report = report
        self.lock = threading.RLock()  # a log filter may ask the watcher for its revision while we load
        self.changed = threading.Condition()
        self.wake = threading.Event()
        self.stopping = False
        self.thread: threading.Thread | None = None
        self.ran_at = NEVER
        self.warned = False

    def launch(self, run: Callable[["Engine"], None], name: str) -> None:
        """Start the thread, once."""
        with self.lock:
            if self.thread is None and not self.stopping:
                self.thread = threading.Thread(target=run, args=(self,), name=name, daemon=True)
                self.thread.start()

    def announce(self) -> None:
        """Wake who waits for a swap, and the thread, which is the one to tell the listeners."""
        with self.changed:
            self.changed.notify_all()
        if self.thread is not threading.current_thread():
            self.wake.set()

    def wait(self, done: Callable[[], bool], timeout: float, attend: Callable[[], object]) -> None:
        """Wait until it is done, the time is over or the engine stops; attend meanwhile: the thread may not run."""
        deadline = time.monotonic() + timeout
        while not done() and not self.stopping and (left := deadline - time.monotonic()) > 0:
            attend()
            with self.changed:
                self.changed.wait_for(lambda: self.stopping or done(), min(left, _POLL_S))

    def stop(self) -> None:
        """End the thread and the connection, within a second."""
        self.stopping = True
        self.announce()
        if self.thread is not None and self.thread is not threading.current_thread():
            self.thread.join(_JOIN_S)
        self.report.close()
