"""One thread for each directory and process. It waits for reasons to look, lets each watcher look, and tells the sidecar.

All watchers of a directory share it: one thread, one file watch, one lock, one connection.
"""

import threading
import time
from pathlib import Path
from typing import Protocol

from datafile_client import _log, _threads
from datafile_client._clock import monotonic
from datafile_client._descriptors import Wake
from datafile_client._directory_watch import KUBERNETES_LINK, SOCKET, DirectoryWatch
from datafile_client._per_process import PerProcess, lock_per_process
from datafile_client._sidecar_link import Report, SidecarLink

_TICK_MAX_S = 1.0
_SOON_S = 0.02
_PAUSE_AFTER_ERROR_S = 1.0


class Member(Protocol):
    """A watcher, as far as its monitor knows it."""

    sdk_key: str
    tick_s: float

    def turn(self, *, is_event: bool) -> Report | None:
        """Look at the file if there is a reason, do what follows, and say what to report; None where it is stopping."""


class DirectoryMonitor:
    """Watches one directory for all watchers of this process. `join` makes and finds it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._wake = Wake()
        self._link = SidecarLink(directory)
        self._lock = threading.RLock()  # of the members and the link; never held while a member works
        self._members: dict[Member, Report] = {}
        self._thread: threading.Thread | None = None

    def add(self, member: Member) -> bool:
        """Let a watcher take part. Return False when the system allows no thread for it."""
        with self._lock:
            self._members[member] = Report()
            if not self.ensure_thread():
                del self._members[member]
                return False
        self._wake.set()
        return True

    def ensure_thread(self) -> bool:
        """Start the thread if there is none, or if it has died. Return False when the system allows none."""
        with self._lock:
            if self._thread is not None:
                if self._thread.is_alive() or not self._members:
                    return True
                self._wake, self._link = Wake(), SidecarLink(self._directory)  # it has closed its own
            thread = threading.Thread(target=self._run, name=f"datafile {self._directory}", daemon=True)
            self._thread = thread if _threads.start(thread) else None
            return self._thread is not None

    def remove(self, member: Member) -> bool:
        """Let a watcher take part no more. Return whether it was the last one: the thread ends then."""
        with self._lock:
            self._members.pop(member, None)
            self._link.update(self._reports(), monotonic())
            is_last = not self._members
        self._wake.set()
        return is_last

    def wake(self) -> None:
        """Give every watcher a turn at once."""
        if threading.current_thread() is not self._thread:
            self._wake.set()

    def wait_for_end(self, ends_at: float) -> None:
        """Wait until the thread has ended, until then on the monotonic clock. Does nothing in the thread itself."""
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(max(0.0, ends_at - monotonic()))

    def abandon(self) -> None:
        """Close what a child has inherited, where Python has not done so because the fork was none of its own."""
        self._wake.abandon()
        self._link.abandon()

    # In the thread

    def _run(self) -> None:
        watch, wake, link = DirectoryWatch(self._directory, self._wake), self._wake, self._link
        changed: set[str] | None = None
        try:
            while self._members:
                try:
                    self._let_look(changed)
                    changed = self._wait(watch)
                    wake.clear()
                except (Exception, SystemExit):  # of the app, of watchfiles, of the system: the watch goes on
                    _log.error_now_and_then("The watch of %s goes on after an error", self._directory, exc_info=True)
                    time.sleep(_PAUSE_AFTER_ERROR_S)
                    changed = None
        finally:
            watch.close()
            with self._lock:
                link.close()
            wake.close()

    def _let_look(self, changed: set[str] | None) -> None:
        for member in list(self._members):
            report = member.turn(is_event=changed is None or member.sdk_key in changed)
            if report is not None and member in self._members:
                self._members[member] = report
        with self._lock:
            self._link.update(self._reports(), monotonic())

    def _wait(self, watch: DirectoryWatch) -> set[str] | None:
        """Wait for a reason to look. Return the SDK keys to look at, None for all of them."""
        tick_s = min((member.tick_s for member in list(self._members)), default=_TICK_MAX_S)
        with self._lock:
            is_told, is_new = self._link.is_told, self._link.is_new(monotonic())
            sockets = self._link.sockets()
        if is_told or is_new:
            # The file watch is read only now and then. It is for files that were replaced by another hand.
            is_readable = self._wake.wait(min(tick_s, _TICK_MAX_S) if is_told else _SOON_S, sockets)
            names: set[str] | None = set() if is_readable else watch.collect()
        else:
            names = watch.wait(min(tick_s, _TICK_MAX_S))
        with self._lock:
            announced = self._link.read(monotonic())
            if names is None or SOCKET in names:
                self._link.retry()
        if names is None or KUBERNETES_LINK in names:
            return None
        return announced | {name.removesuffix(".json") for name in names}

    def _reports(self) -> dict[str, Report]:
        """Return what to report of each key: of two watchers, the one that is behind."""
        reports: dict[str, Report] = {}
        for member, report in self._members.items():
            other = reports.get(member.sdk_key)
            if other is None or (report.revision or 0) < (other.revision or 0):
                reports[member.sdk_key] = report
        return reports


def _begin(inherited: dict[Path, DirectoryMonitor] | None) -> dict[Path, DirectoryMonitor]:
    for monitor in (inherited or {}).values():
        monitor.abandon()
    return {}


_monitors: PerProcess[dict[Path, DirectoryMonitor]] = PerProcess(_begin)
_monitors_lock = lock_per_process()


def join(directory: Path, member: Member) -> DirectoryMonitor | None:
    """Let a watcher take part in this process's monitor of the directory. Return None when the system allows no thread."""
    with _monitors_lock.get():
        monitors = _monitors.get()
        monitor = monitors.get(directory) or DirectoryMonitor(directory)
        if not monitor.add(member):
            monitor.abandon()
            return None
        monitors[directory] = monitor
    return monitor


def leave(directory: Path, member: Member, ends_at: float) -> None:
    """End a watcher's part, and the monitor with its last watcher, for whose end this waits until then."""
    with _monitors_lock.get():
        monitors = _monitors.get()
        monitor = monitors.get(directory)
        is_last = monitor is not None and monitor.remove(member)
        if is_last:
            del monitors[directory]
    if monitor is not None and is_last:
        monitor.wait_for_end(ends_at)
