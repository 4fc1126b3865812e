"""Waits for changes in the sidecar's directory. Knows file watchers, and nothing of what the files mean."""

import contextlib
import os
import threading
from pathlib import Path

# Its documentation calls this the Rust backend. Unlike `watchfiles.watch`, it takes another time limit at each call.
from watchfiles._rust_notify import RustNotify

from datafile_client import _log, _threads
from datafile_client._descriptors import Wake

# A step of 10 ms costs 0.27 % of a core and reports an event within 16 ms.
_DEBOUNCE_MS, _STEP_MS, _COLLECT_MS = 50, 10, 1
_GREENLET_STEP_S = 0.05


def _watch(path: str) -> RustNotify:
    # Without polling, which our rescan replaces; this directory only; permissions matter.
    return RustNotify([path], False, False, 0, False, False)


# watchfiles initializes lock-protected values at its first watch, and at the first one with an event that stops it. A child
# forked at that moment would wait for a lock for ever. One short watch at import does it before this package starts any thread.
if _threads.is_one_left():
    with contextlib.suppress(OSError, RuntimeError), _watch(os.sep) as _first:
        _first.watch(_DEBOUNCE_MS, _COLLECT_MS, 5 * _COLLECT_MS, threading.Event())

KUBERNETES_LINK = "..data"
SOCKET = "sidecar.sock"


class DirectoryWatch:
    """One file watch on one directory, which may be missing, appear late, be replaced, or be on a mount without events.

    Where threads are greenlets there is no such watch, because all of them would wait with it: the files are looked at.
    """

    def __init__(self, directory: Path, wake: Wake) -> None:
        self._directory = directory
        self._wake = wake
        self._notify: RustNotify | None = None
        self._watched: os.stat_result | None = None
        self._error: str | None = None

    def wait(self, timeout_s: float) -> set[str] | None:
        """Wait for a change, or until woken.

        Returns:
            The names of the files that have changed; None where any may have.
        """
        if _threads.are_greenlets():
            self._wake.wait(min(timeout_s, _GREENLET_STEP_S))
            return None
        names = self._read(_STEP_MS, round(timeout_s * 1000))
        if self._error is not None:
            self._wake.wait(timeout_s)
        return names

    def collect(self) -> set[str] | None:
        """Return what has changed since the last call, as `wait` does, in a millisecond."""
        return None if _threads.are_greenlets() else self._read(_COLLECT_MS, _COLLECT_MS)

    def _read(self, step_ms: int, timeout_ms: int) -> set[str] | None:
        try:
            if self._notify is None:
                self._begin()
                return None  # a change before the watch began gave no event
            changes = self._notify.watch(_DEBOUNCE_MS, step_ms, max(1, timeout_ms), self._wake)
            # After the directory is replaced, the watch stays alive but reports nothing.
            if self._watched is None or not os.path.samestat(self._watched, os.stat(self._directory)):
                self.close()
                return None
        except (OSError, RuntimeError, ValueError) as error:  # ValueError: a name that is no UTF-8
            self.close()
            if str(error) != self._error and not _threads.is_process_ending():  # once, not at every tick
                self._error = str(error)
                _log.warning("Cannot watch for changes (%s); checking the files every second instead", error)
            return None
        if changes == "stop":  # woken: what had come until then is lost
            return None
        names = {os.path.basename(path) for _, path in changes} if isinstance(changes, set) else set()
        return set(filter(_is_relevant, names))

    def _begin(self) -> None:
        watched = os.stat(self._directory)
        if not _threads.is_one_left():  # its thread; without one it would abort the app
            raise OSError("no more threads are allowed")
        self._watched, self._notify, self._error = watched, _watch(os.fspath(self._directory)), None

    def close(self) -> None:
        """End the watch."""
        notify, self._notify = self._notify, None
        if notify is not None:
            notify.close()


def _is_relevant(name: str) -> bool:
    """Tell whether this is a datafile, the link by which Kubernetes replaces all files of a volume, or the sidecar's socket."""
    is_datafile = name.endswith(".json") and not name.startswith(".") and not name.endswith(".status.json")
    return is_datafile or name in (KUBERNETES_LINK, SOCKET)
