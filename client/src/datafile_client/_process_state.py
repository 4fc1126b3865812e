"""What one process needs to watch: a thread, its locks, and its connection to the sidecar."""

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path

from datafile_client._datafile_reader import DatafileReader
from datafile_client._revision_reporter import RevisionReporter

NEVER = float("-inf")
_JOIN_S = 1.0


class ProcessState:
    """Everything that does not survive a fork. Each process makes its own."""

    def __init__(self, directory: Path, sdk_key: str) -> None:
        self.reader = DatafileReader(directory, sdk_key)
        self.reporter = RevisionReporter(directory, sdk_key)
        self.lock = threading.RLock()  # reentrant: a log filter may ask the watcher for its revision during a load
        self.changed = threading.Condition()
        self.wake = threading.Event()
        self.stopping = False
        self.thread: threading.Thread | None = None
        self.heartbeat_at = NEVER
        self.has_warned = False

    def start_thread(self, run: Callable[["ProcessState"], None], name: str) -> bool:
        """Start the thread unless it was started before. Return False when the system allows no more threads."""
        with self.lock, contextlib.suppress(RuntimeError):
            if self.thread is None and not self.stopping:
                thread = threading.Thread(target=run, args=(self,), name=name, daemon=True)
                thread.start()
                self.thread = thread
        return self.stopping or self.thread is not None

    def notify(self) -> None:
        """Wake all threads that wait for a new instance, and the watcher thread, which calls the listeners."""
        with self.changed:
            self.changed.notify_all()
        if self.thread is not threading.current_thread():
            self.wake.set()

    def stop(self) -> None:
        """End the thread and the connection, within a second."""
        self.stopping = True
        self.notify()
        if self.thread is not None and self.thread is not threading.current_thread():
            self.thread.join(_JOIN_S)
        self.reporter.close()
