"""Builds an instance from each new datafile, and says what is in use, and why the newest may not be."""

import datetime
from dataclasses import replace
from pathlib import Path

from optimizely.helpers.enums import NotificationTypes

from datafile_client import _log
from datafile_client._clock import monotonic
from datafile_client._datafile_reader import FileContent, read_file
from datafile_client._instance_builder import BuiltInstance, InstanceBuilder
from datafile_client._per_process import lock_per_process
from datafile_client._process_state import NEVER, ProcessState
from datafile_client.errors import InvalidDatafileError

_RETRY_MAX_S = 60.0


class DatafileLoader:
    """The datafile of one watcher, in all processes. `current` is what a process inherits, and goes on from.

    Attributes:
        current: what is in use; None before the first is loaded.
        checked_at: when the sidecar last found that it is the newest (UTC), as far as is known.
        last_error: why the newest file is not in use; None when it is.
        fallback_error: why the fallback can't be used; None where that was not tried.
    """

    def __init__(self, sdk_key: str, builder: InstanceBuilder) -> None:
        self.current: BuiltInstance | None = None
        self.checked_at: datetime.datetime | None = None
        self.last_error: str | None = None
        self.fallback_error: str | None = None
        self._sdk_key = sdk_key
        self._builder = builder
        self._swap_lock = lock_per_process()  # held for an assignment

    def check(self, state: ProcessState) -> None:
        """Look at the file, unless another thread does so now: then the monitor looks once more. Never waits, never raises."""
        if not state.looking.acquire(blocking=False):
            state.is_look_due = True
            return
        is_swapped, error = False, None
        try:
            if state.retry_at is not None and monotonic() >= state.retry_at:
                state.retry_at = None
                state.reader.forget()
            is_swapped = self._look(state)
        except Exception as problem:  # neither a request nor the thread may fail because of a bad file
            error = problem
        finally:
            state.looking.release()
        state.heartbeat_at = min(state.heartbeat_at, monotonic())  # a log handler that hangs is no slow build
        if error is not None:
            self._note_failure(state, error)
        elif is_swapped:
            self._announce(state)
        if state.is_look_due:
            state.is_look_due, state.rescan_at = False, NEVER
            state.wake()

    def _look(self, state: ProcessState) -> bool:
        """Read the file, and use what is new in it. Return whether another instance is in use now."""
        try:
            file = state.reader.read_if_changed()
        except InvalidDatafileError:
            state.refused_sha256 = None
            raise
        if file is None:
            return False
        state.refused_sha256 = file.sha256
        is_swapped = self._load(file)
        self.last_error = state.refused = state.refused_sha256 = None
        state.retry_s = 0.0
        return is_swapped

    def _note_failure(self, state: ProcessState, error: Exception) -> None:
        """Log why the file can't be used, once, and not if it is only not there yet. Plan another try where that may help."""
        is_missing, is_known = isinstance(error.__cause__, FileNotFoundError), str(error) == self.last_error
        self.last_error = str(error)
        state.refused = None if is_missing else error.reason if isinstance(error, InvalidDatafileError) else str(error)
        if not isinstance(error, InvalidDatafileError):  # no fault of the file: it may pass
            state.retry_s = min(max(1.0, 2 * state.retry_s), _RETRY_MAX_S)
            state.retry_at = monotonic() + state.retry_s
        if not is_known and not (is_missing and self.current is None):
            _log.warning("%s", error, exc_info=None if isinstance(error, InvalidDatafileError) else error)

    def _load(self, file: FileContent) -> bool:
        """Build an instance and make it the current one. Return False if the current one has the same bytes."""
        current = self.current
        if current is not None and current.sha256 == file.sha256:
            self.current = replace(current, source="file")
            return False
        built = self._builder.build(file.data, file.sha256, file.path, "file", prevalidated=file.prevalidated)
        with self._swap_lock.get():
            self.current, self.checked_at = built, None
        return True

    def _announce(self, state: ProcessState) -> None:
        if (current := self.current) is not None:
            _log.info("Using revision %d of %s (%s)", current.revision, self._sdk_key, current.source)
        # For listeners of the SDK. Its constructor would notify them before the swap, when they still see the old instance.
        try:
            self._builder.shared.notification_center.send_notifications(NotificationTypes.OPTIMIZELY_CONFIG_UPDATE)
        except Exception:  # of the app's logger: the SDK itself catches what a listener raises, and logs it
            _log.error("A listener of the SDK failed", exc_info=True)
        state.notify()

    def use_fallback(self, path: Path, state: ProcessState) -> None:
        """Use the datafile in this file, unless there is another meanwhile."""
        try:
            file = read_file(path)
            built = self._builder.build(file.data, file.sha256, file.path, "fallback", prevalidated=False)
        except InvalidDatafileError as error:
            self.fallback_error = str(error)
            _log.error("The fallback cannot be used: %s", error)
            return
        with self._swap_lock.get():
            is_swapped = self.current is None
            self.current = self.current or built
        if is_swapped:
            self._announce(state)
