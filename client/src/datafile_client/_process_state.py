"""What one process needs of one watcher: its locks, and its place in the process's monitor of the directory."""

import threading
from collections.abc import Callable
from pathlib import Path

from datafile_client import _directory_monitor
from datafile_client._datafile_reader import DatafileReader
from datafile_client._directory_monitor import DirectoryMonitor
from datafile_client._sidecar_link import Report

NEVER = float("-inf")
_TURN_ENDS_WITHIN_S = 1.0


class ProcessState:
    """Everything that does not survive a fork. Each process makes its own.

    Args:
        directory: the directory to watch.
        sdk_key: the file in it.
        tick_s: the longest pause between two turns, in seconds.
        take_turn: called by the monitor's thread at each event (True) and tick (False); it returns what to report.
    """

    def __init__(
        self, directory: Path, sdk_key: str, tick_s: float, take_turn: "Callable[[ProcessState, bool], Report]"
    ) -> None:
        self.sdk_key = sdk_key
        self.tick_s = tick_s
        self.reader = DatafileReader(directory, sdk_key)
        self.lock = threading.RLock()  # reentrant: a log filter may ask the watcher for its revision during a load
        self.changed = threading.Condition()
        self.stopping = False
        self.heartbeat_at = NEVER
        self.rescan_at = NEVER
        self.refused: str | None = None
        self.refused_sha256: str | None = None
        self.has_warned = False
        self._directory = directory
        self._take_turn = take_turn
        self._monitor: DirectoryMonitor | None = None
        self._turn = threading.RLock()  # held for a turn; reentrant, for a callback may stop the watcher

    def start(self) -> bool:
        """Take part in the monitor, unless that was done before. Return False when the system allows no thread for it."""
        with self.lock:
            if self._monitor is None and not self.stopping:
                self._monitor = _directory_monitor.join(self._directory, self)
                if self.stopping:  # meanwhile, when `stop` saw no monitor to leave
                    _directory_monitor.leave(self._directory, self, waits=False)
        return self.stopping or self._monitor is not None

    def turn(self, *, is_event: bool) -> Report | None:
        """Take a turn, unless this is stopping."""
        with self._turn:
            return None if self.stopping else self._take_turn(self, is_event)

    def notify(self) -> None:
        """Wake all threads that wait for a new instance, and the monitor, which calls the listeners."""
        with self.changed:
            self.changed.notify_all()
        self.wake()

    def wake(self) -> None:
        """Ask for a turn at once."""
        if self._monitor is not None:
            self._monitor.wake()

    def stop(self) -> None:
        """End the part in the monitor. Waits at most a second for a turn that has begun."""
        self.stopping = True
        self.notify()
        if self._monitor is not None:
            if has_ended := self._turn.acquire(timeout=_TURN_ENDS_WITHIN_S):
                self._turn.release()
            _directory_monitor.leave(self._directory, self, waits=has_ended)
