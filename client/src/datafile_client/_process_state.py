"""What one process needs of one watcher: its locks, and its place in the process's monitor of the directory."""

import threading
from collections.abc import Callable

from datafile_client._clock import monotonic
from datafile_client._datafile_source import DatafileSource, Monitor
from datafile_client._instance_builder import BuiltInstance
from datafile_client._sidecar_link import Report
from datafile_client._update_listeners import Listener, ListenerCalls

NEVER = float("-inf")
_END_WITHIN_S = 1.0


class ProcessState:
    """Everything that does not survive a fork. Each process makes its own.

    Args:
        source: where the datafiles come from.
        sdk_key: whose datafiles.
        tick_s: the longest pause between two turns, in seconds.
        take_turn: called by the monitor's thread at each event (True) and tick (False); it returns what to report.
        next_call: returns what has to be called next, or None.
    """

    def __init__(
        self,
        source: DatafileSource,
        sdk_key: str,
        tick_s: float,
        take_turn: "Callable[[ProcessState, bool], Report]",
        next_call: "Callable[[ProcessState], tuple[Listener, BuiltInstance] | None]",
    ) -> None:
        self.sdk_key = sdk_key
        self.tick_s = tick_s
        self.reader = source.reader()
        # Held while the file is read and an instance built, which may run code of the app: so nobody ever waits for it.
        self.looking = threading.Lock()
        self.is_look_due = False
        self.changed = threading.Condition()
        self.stopping = False
        self.heartbeat_at = NEVER
        self.rescan_at = NEVER
        self.retry_at: float | None = None
        self.retry_s = 0.0
        self.refused: str | None = None
        self.refused_sha256: str | None = None
        self.has_warned = False
        self.calls = ListenerCalls(lambda: next_call(self), in_place=not source.has_thread)
        self._source = source
        self._take_turn = take_turn
        self._monitor: Monitor | None = None
        self._starting = threading.RLock()

    def start(self) -> bool:
        """Take part in the monitor, and see that it has a thread. Return False when the system allows no thread for it."""
        with self._starting:
            if self._monitor is not None:
                return self._monitor.ensure_thread()
            if not self.stopping:
                self._monitor = self._source.join(self)
                if self.stopping:  # meanwhile, when `stop` saw no monitor to leave
                    self._source.leave(self, NEVER)
        return self.stopping or self._monitor is not None

    def turn(self, *, is_event: bool) -> Report | None:
        """Take a turn, unless this is stopping."""
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
        """End the part in the monitor. Waits at most a second for a callback or a look that has begun."""
        self.stopping = True
        self.notify()
        ends_at = monotonic() + _END_WITHIN_S
        self.calls.wait_for_end(ends_at)
        if self.looking.acquire(timeout=max(0.0, ends_at - monotonic())):
            self.looking.release()
        if self._monitor is not None:
            self._source.leave(self, ends_at)
