"""The public class `OptimizelyWatcher`: it starts, waits, swaps instances, calls listeners, and stops."""

import asyncio
import datetime
import functools
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from optimizely.helpers.enums import NotificationTypes
from optimizely.optimizely import Optimizely

from datafile_client._datafile_reader import DatafileReader, FileContent, is_mount_point, read_file
from datafile_client._exit_hooks import stop_at_exit
from datafile_client._instance_builder import BuiltInstance, InstanceBuilder
from datafile_client._options import check_options, check_seconds, choose_sdk_key
from datafile_client._per_process import PerProcess, is_about_to_fork_in_c, lock_per_process
from datafile_client._process_state import NEVER, ProcessState
from datafile_client._sidecar_link import Report
from datafile_client._status import WatcherStatus
from datafile_client.errors import DatafileUnavailableError, InvalidDatafileError

_HEARTBEAT_TIMEOUT_S = 4.0
_BUILD_MAX_S = 60.0
_WAIT_STEP_S = 0.05

_log = logging.getLogger("datafile_client")


@dataclass(eq=False, slots=True)
class _Listener:
    callback: Callable[[Optimizely], object]
    called_with: Optimizely | None = None


class OptimizelyWatcher:
    """Keep an `Optimizely` instance up to date with the datafile that the sidecar publishes.

    Every new datafile gets a new instance. Read `optimizely` once per request, so that the whole request uses one revision.
    `with` and `async with` start the watcher and stop it; otherwise call `start` and `stop`.

    All methods are safe to call from any thread, from asyncio, and in forked child processes. A child starts its own watcher
    thread the first time it uses the watcher.

    Args:
        sdk_key: the SDK key. If None, DATAFILE_SDK_KEYS must contain exactly one.
        directory: the directory that the sidecar publishes into. If None, DATAFILE_DIR, or else /var/run/datafile. It may
            appear later.
        fallback: a file with a datafile to use when none appears in time. It is used until one appears.
        optimizely_options: keyword arguments for the SDK's constructor. They apply to every instance.
        stale_after_s: the age in seconds after which `status().stale` is True. None means never.
        rescan_interval_s: how often to check the file even if the file system reports no change, in seconds.

    Raises:
        InvalidOptionError: an argument or environment variable is wrong.
    """

    def __init__(
        self,
        *,
        sdk_key: str | None = None,
        directory: str | os.PathLike[str] | None = None,
        fallback: str | os.PathLike[str] | None = None,
        optimizely_options: Mapping[str, Any] | None = None,
        stale_after_s: float | None = None,
        rescan_interval_s: float = 1.0,
    ) -> None:
        self._sdk_key = choose_sdk_key(sdk_key, os.environ)
        self._directory = Path(directory or os.environ.get("DATAFILE_DIR") or "/var/run/datafile").absolute()
        self._path = self._directory / f"{self._sdk_key}.json"
        self._fallback = Path(fallback).absolute() if fallback is not None else None
        self._stale_after_s = check_seconds("stale_after_s", stale_after_s)
        self._rescan_interval_s = check_seconds("rescan_interval_s", rescan_interval_s) or 1.0
        check_options(optimizely_options or {})
        self._builder = InstanceBuilder(self._sdk_key, dict(optimizely_options or {}))
        self._process_state: PerProcess[ProcessState] = PerProcess(self._make_process_state)
        self._start_stop_lock = lock_per_process()
        self._started = False
        self._current: BuiltInstance | None = None
        self._checked_at: datetime.datetime | None = None
        self._last_error: str | None = None
        self._listeners: dict[_Listener, None] = {}

    def __repr__(self) -> str:
        current = self._current
        return f"<OptimizelyWatcher {self._path} {f'revision {current.revision}' if current else 'without a datafile'}>"

    def start(self, timeout: float = 30) -> None:
        """Start watching, and wait until a datafile is loaded.

        Does nothing when the watcher is running and a datafile is loaded. A stopped watcher can be started again.

        Args:
            timeout: how long to wait for a valid datafile, in seconds. 0 loads a file that is there and does not wait.

        Raises:
            DatafileUnavailableError: no valid datafile came in time, and there is no usable fallback. The watcher keeps
                watching: an app may catch this error and go on, and `optimizely` works as soon as a datafile is there.
        """
        self._mark_started()
        self._wait_for_first(timeout)

    def stop(self) -> None:
        """Stop watching, and send the events that are queued. The last instance stays usable, but drops new events.

        May be called more than once, and from any thread or callback. Takes at most one second plus the event processor's
        `timeout_interval` (5 s by default). Runs by itself when the process exits normally, and in children of multiprocessing
        and Celery.
        """
        with self._start_stop_lock.get():
            if not self._started:
                return
            self._started = False
            if (state := self._process_state.peek()) is not None:
                state.stop()
                self._process_state.discard()
            self._builder.shared.shut_down()

    @property
    def optimizely(self) -> Optimizely:
        """The current instance. Read it once per request.

        Raises:
            DatafileUnavailableError: no datafile has been loaded.
        """
        return self._get_current().optimizely

    @property
    def revision(self) -> int:
        """The revision of the current instance.

        Raises:
            DatafileUnavailableError: no datafile has been loaded.
        """
        return self._get_current().revision

    def status(self) -> WatcherStatus:
        """Return which datafile is in use, how fresh it is, and the last error. Never raises; reads one small file."""
        self._ensure_running()
        current, limit_s, now = self._current, self._stale_after_s, datetime.datetime.now(datetime.UTC)
        if current is not None:
            is_prevalidated, checked_at = DatafileReader(self._directory, self._sdk_key).prevalidated(current.sha256)
            self._checked_at = checked_at if is_prevalidated else self._checked_at
        confirmed_at = self._checked_at or (current and current.loaded_at)
        return WatcherStatus(
            sdk_key=self._sdk_key,
            path=str(self._path),
            revision=current and current.revision,
            sha256=current and current.sha256,
            source=current and current.source,
            loaded_at=current and current.loaded_at,
            checked_at=self._checked_at,
            stale=limit_s is not None and (confirmed_at is None or (now - confirmed_at).total_seconds() > limit_s),
            last_error=self._last_error,
        )

    def on_update(self, callback: Callable[[Optimizely], object]) -> Callable[[], None]:
        """Call `callback(optimizely)` each time a new instance is in use, and once for the current one if there is one.

        The call happens on the watcher thread, so a slow callback delays the next datafile. An exception is logged.

        Args:
            callback: the function to call with the new instance.

        Returns:
            A function that removes the callback. It may be called more than once. It does not wait for a call in progress.
        """
        listener = _Listener(callback)
        self._listeners[listener] = None
        if (state := self._ensure_running()) is not None:
            state.wake()
        return functools.partial(self._listeners.pop, listener, None)

    def wait_for_revision(self, revision: int, timeout: float = 30) -> bool:
        """Wait until this revision or a newer one is in use in this process.

        Args:
            revision: the revision to wait for.
            timeout: how long to wait, in seconds.

        Returns:
            True when it is in use, False when the timeout has passed or the watcher is stopped.
        """

        return self._wait(lambda: self._current is not None and self._current.revision >= revision, timeout)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        try:
            self._mark_started()  # here and not in the thread, so that a cancelled start always has something to stop
            await asyncio.to_thread(self._wait_for_first)
        except BaseException:
            await asyncio.to_thread(self.stop)
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.stop)

    def _make_process_state(self, _: ProcessState | None) -> ProcessState:
        stop_at_exit(self)
        return ProcessState(self._directory, self._sdk_key, self._rescan_interval_s, self._take_turn)

    def _mark_started(self) -> None:
        with self._start_stop_lock.get():
            if not self._started:
                self._builder.shared.reopen()
                self._started = True

    def _wait_for_first(self, timeout: float = 30) -> None:
        if is_mount_point(self._path):
            _log.warning("%s is a mount (subPath?) and never changes. Mount its directory instead", self._path)
        if not self._wait(lambda: self._current is not None, timeout) and self._fallback is not None:
            self._load_fallback(self._fallback, self._process_state.get())
        if self._current is None:
            raise self._unavailable_error(f"no valid datafile within {timeout:g} s")

    def _ensure_running(self) -> ProcessState | None:
        """Start the watcher thread if need be, and stand in for it when it hangs. Costs a microsecond on each use."""
        if not self._started:
            return None
        state = self._process_state.get()
        heartbeat_at = state.heartbeat_at
        # stop() may have been called since the first check, and then get() has made a state that nothing would stop.
        if time.monotonic() - heartbeat_at > _HEARTBEAT_TIMEOUT_S and self._started:
            self._check_file(state)
            if is_about_to_fork_in_c():
                return state
            state.heartbeat_at = max(state.heartbeat_at, time.monotonic())  # the thread may have set a later time
            has_thread = heartbeat_at == NEVER and state.start()
            if not has_thread and not state.has_warned:
                state.has_warned = True
                _log.warning("Watcher thread stuck or missing (slow callback? uWSGI without threads?); checking on use")
        return state

    def _wait(self, condition: Callable[[], bool], timeout: float) -> bool:
        """Wait until the condition holds, the time is over or the watcher is stopped. Return whether the condition holds."""
        deadline = time.monotonic() + timeout
        while (state := self._ensure_running()) and not condition() and (left := deadline - time.monotonic()) > 0:
            with state.changed:
                state.changed.wait_for(condition, min(left, _WAIT_STEP_S))
        return condition()

    def _take_turn(self, state: ProcessState, is_event: bool) -> Report:
        """Look at the file if there is a reason, call the listeners, and return what to report to the sidecar."""
        now = time.monotonic()
        if is_event or now >= state.rescan_at:
            state.rescan_at = now + self._rescan_interval_s
            # A time in the future, so that during a slow build no request checks the file and waits for the build.
            state.heartbeat_at = now + _BUILD_MAX_S
            self._check_file(state)
        state.heartbeat_at = time.monotonic()
        self._call_listeners(state)
        current = self._current
        return Report(current and current.revision, current and current.sha256, state.refused, state.refused_sha256)

    def _check_file(self, state: ProcessState) -> None:
        is_swapped, message, unexpected, file = False, None, None, None
        with state.lock:
            try:
                if (file := state.reader.read_if_changed()) is not None:
                    is_swapped = self._load(file, "file")
                    self._last_error = state.refused = None
            except Exception as error:  # neither a request nor the thread may fail because of a bad file
                if str(error) != self._last_error:  # once, not at every check
                    message, unexpected = str(error), None if isinstance(error, InvalidDatafileError) else error
                self._last_error = str(error)
                state.refused, state.refused_sha256 = _refusal(error, file)
        # Log without our lock: a thread that holds a log handler's lock may be waiting for ours, to add the revision to its line.
        if message is not None:
            _log.warning("%s", message, exc_info=unexpected)
        elif is_swapped:
            self._announce_swap(state)

    def _load(self, file: FileContent, source: str) -> bool:
        """Build an instance and make it the current one. Return False if the current one has the same bytes."""
        current = self._current
        if current is not None and current.sha256 == file.sha256:
            self._current = replace(current, source=source)
            return False
        self._current = self._builder.build(file.data, file.sha256, file.path, source, prevalidated=file.prevalidated)
        self._checked_at = None
        return True

    def _announce_swap(self, state: ProcessState) -> None:
        if (current := self._current) is not None:
            _log.info("Using revision %d of %s (%s)", current.revision, self._sdk_key, current.source)
        # For listeners of the SDK. Its constructor would notify them before the swap, when they still see the old instance.
        self._builder.shared.notification_center.send_notifications(NotificationTypes.OPTIMIZELY_CONFIG_UPDATE)
        state.notify()

    def _call_listeners(self, state: ProcessState) -> None:
        for listener in list(self._listeners):
            current, is_active = self._current, listener in self._listeners and not state.stopping
            if current is None or not is_active or listener.called_with is current.optimizely:
                continue
            listener.called_with = current.optimizely
            try:
                listener.callback(current.optimizely)
            except BaseException:  # sys.exit() would end only this thread
                _log.exception("An on_update callback failed at revision %d", current.revision)

    def _load_fallback(self, path: Path, state: ProcessState) -> None:
        try:
            with state.lock:
                if self._current is None:
                    self._load(read_file(path), "fallback")
        except InvalidDatafileError as error:
            _log.error("The fallback cannot be used: %s", error)
        else:
            self._announce_swap(state)

    def _get_current(self) -> BuiltInstance:
        self._ensure_running()
        if self._current is None:
            raise self._unavailable_error("none has been loaded yet")
        return self._current

    def _unavailable_error(self, reason: str) -> DatafileUnavailableError:
        if not self._started:
            reason = "the watcher is not running, call start()"
        if self._last_error is not None:
            reason = f"{reason} ({self._last_error})"
        return DatafileUnavailableError(self._sdk_key, self._path, reason)


def _refusal(error: Exception, file: FileContent | None) -> tuple[str | None, str | None]:
    """Return why the process can't use what is published, and its digest. A file that is not there is no refusal."""
    if isinstance(error.__cause__, FileNotFoundError):
        return None, None
    reason = error.reason if isinstance(error, InvalidDatafileError) else str(error)
    return reason, file.sha256 if file else None
