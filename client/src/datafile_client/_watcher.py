"""The public class `OptimizelyWatcher`: it starts, waits, swaps instances, calls listeners, and stops."""

import asyncio
import datetime
import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self, cast

from optimizely.optimizely import Optimizely
from optimizely.optimizely_user_context import OptimizelyUserContext

from datafile_client import _log
from datafile_client._clock import monotonic
from datafile_client._datafile_loader import DatafileLoader
from datafile_client._datafile_reader import is_in_the_future
from datafile_client._datafile_source import DatafileSource, DirectorySource
from datafile_client._exit_hooks import stop_at_exit
from datafile_client._flag_changes import FlagChanges
from datafile_client._instance_builder import BuiltInstance, InstanceBuilder
from datafile_client._options import OptimizelyOptions, check_path, check_seconds, checked_options, choose_sdk_key
from datafile_client._per_process import PerProcess, is_about_to_fork_in_c, lock_per_process
from datafile_client._process_state import NEVER, ProcessState
from datafile_client._sidecar_link import Report
from datafile_client._status import WatcherStatus
from datafile_client._stopping import Stopping
from datafile_client._update_listeners import Listener
from datafile_client.errors import DatafileUnavailableError, InvalidOptionError

_HEARTBEAT_TIMEOUT_S = 4.0
_BUILD_MAX_S = 60.0
_RESCAN_MIN_S = 0.01
_WAIT_STEP_S = 0.05


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
        rescan_interval_s: how often to check the file even if nothing reports a change, in seconds, at least 0.01.
        start_timeout_s: how long `start`, `with` and `async with` wait for a datafile, in seconds.

    Raises:
        InvalidOptionError: an argument or environment variable is wrong.
    """

    def __init__(
        self,
        *,
        sdk_key: str | None = None,
        directory: str | os.PathLike[str] | None = None,
        fallback: str | os.PathLike[str] | None = None,
        optimizely_options: OptimizelyOptions | None = None,
        stale_after_s: float | None = None,
        rescan_interval_s: float = 1.0,
        start_timeout_s: float = 30,
    ) -> None:
        self._sdk_key = choose_sdk_key(sdk_key, os.environ)
        chosen = check_path("directory", directory) or os.environ.get("DATAFILE_DIR") or "/var/run/datafile"
        self._source: DatafileSource = DirectorySource(Path(chosen).absolute(), self._sdk_key)
        self._fallback = Path(path).absolute() if (path := check_path("fallback", fallback)) else None
        self._stale_after_s = None if stale_after_s is None else check_seconds("stale_after_s", stale_after_s)
        self._rescan_interval_s = check_seconds("rescan_interval_s", rescan_interval_s, _RESCAN_MIN_S)
        self._start_timeout_s = check_seconds("start_timeout_s", start_timeout_s, 0)
        self._builder = InstanceBuilder(self._sdk_key, checked_options(optimizely_options))
        self._process_state: PerProcess[ProcessState] = PerProcess(self._make_process_state)
        self._start_stop_lock = lock_per_process()
        self._started = False
        self._stopping: Stopping | None = None
        self._loader = DatafileLoader(self._sdk_key, self._builder)
        self._listeners: dict[Listener, None] = {}

    def __repr__(self) -> str:
        current = self._loader.current
        return f"<OptimizelyWatcher {self._source.path} {f'revision {current.revision}' if current else 'without a datafile'}>"

    def start(self, timeout: float | None = None) -> None:
        """Start watching, and wait until a datafile is loaded.

        Does nothing when the watcher is running and a datafile is loaded. A stopped watcher can be started again.

        Args:
            timeout: how long to wait for a valid datafile, in seconds; None for the constructor's `start_timeout_s`. 0 loads a
                file that is there and does not wait.

        Raises:
            DatafileUnavailableError: no valid datafile came in time, and there is no usable fallback. The watcher keeps
                watching: an app may catch this error and go on, and `optimizely` works as soon as a datafile is there.
            InvalidOptionError: the timeout is no number of seconds.
        """
        timeout_s = self._start_timeout_s if timeout is None else check_seconds("timeout", timeout, 0)
        self._mark_started()
        self._wait_for_first(timeout_s)

    def stop(self) -> None:
        """Stop watching, and send the events that are queued. The last instance stays usable, but drops new events.

        May be called more than once, and from any thread, callback or signal handler. Takes at most one second plus the event
        processor's `timeout_interval` (5 s by default). Runs by itself when the process exits normally, and in children of
        multiprocessing and Celery.
        """
        with self._start_stop_lock.get():
            was_started, self._started = self._started, False
            if was_started:
                self._stopping = Stopping()
            stopping, state = self._stopping, self._process_state.peek()
            self._process_state.discard()
        if not was_started:
            if stopping is not None:
                stopping.wait(1 + self._builder.shared.timeout_s)
            return
        try:
            if state is not None:
                state.stop()
            self._builder.shared.shut_down()
        finally:
            if stopping is not None:
                stopping.end()
            if self._started:  # a signal handler has started it, while this thread was stopping it
                self._builder.shared.reopen()

    @property
    def ready(self) -> bool:
        """Whether this process can decide: the watcher is running, and a datafile is loaded. Never raises."""
        return self._ensure_running() is not None and self._loader.current is not None

    def user(self, user_id: str, attributes: Mapping[str, Any] | None = None) -> OptimizelyUserContext:
        """Return a user context of the current instance. Unlike the SDK's `create_user_context`, it is never None.

        Args:
            user_id: the user's id.
            attributes: what the datafile's audiences look at.

        Raises:
            DatafileUnavailableError: no datafile has been loaded.
            InvalidOptionError: an argument is not what the SDK accepts.
        """
        if not isinstance(user_id, str):
            raise InvalidOptionError("user_id", f"must be a text, not {type(user_id).__name__}")
        if attributes is not None and not isinstance(attributes, Mapping):
            raise InvalidOptionError("attributes", f"must be a mapping, not {type(attributes).__name__}")
        context = self.optimizely.create_user_context(user_id, cast("Any", dict(attributes or {})))
        if context is None:
            raise InvalidOptionError("attributes", "the SDK does not accept them; its log says why")
        return context

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
        current, limit_s = self._loader.current, self._stale_after_s
        if current is not None:
            is_prevalidated, checked_at = self._source.reader().prevalidated(current.sha256)
            self._loader.checked_at = checked_at if is_prevalidated else self._loader.checked_at
        known = [moment for moment in (self._loader.checked_at, current and current.loaded_at) if moment]
        confirmed_at = next((moment for moment in known if not is_in_the_future(moment)), None)
        age = datetime.datetime.now(datetime.UTC) - confirmed_at if confirmed_at else None
        return WatcherStatus(
            sdk_key=self._sdk_key,
            path=str(self._source.path),
            revision=current and current.revision,
            sha256=current and current.sha256,
            source=current and current.source,
            loaded_at=current and current.loaded_at,
            checked_at=self._loader.checked_at,
            stale=limit_s is not None and (age is None or age.total_seconds() > limit_s),
            last_error=self._loader.last_error,
        )

    def on_update(
        self, callback: Callable[[Optimizely], object] | Callable[[Optimizely, FlagChanges], object]
    ) -> Callable[[], None]:
        """Call `callback(optimizely)` each time a new instance is in use, and once for the current one if there is one.

        A callback that needs two arguments is called with the `FlagChanges` since its last call, too. The calls happen one after
        the other on a thread of their own. While one runs, newer instances may come; then the next is for the newest. An exception
        is logged.

        Args:
            callback: the function to call with the new instance.

        Returns:
            A function that removes the callback. It may be called more than once. It does not wait for a call in progress.
        """
        listener = Listener.of(callback)
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

        Raises:
            InvalidOptionError: the timeout is no number of seconds.
        """
        check_seconds("timeout", timeout, 0)
        return self._wait(
            lambda: self._loader.current is not None and self._loader.current.revision >= revision, timeout
        )

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
            await asyncio.to_thread(self._wait_for_first, self._start_timeout_s)
        except BaseException:
            await asyncio.to_thread(self.stop)
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.stop)

    def _make_process_state(self, _: ProcessState | None) -> ProcessState:
        stop_at_exit(self)
        return ProcessState(self._source, self._sdk_key, self._rescan_interval_s, self._take_turn, self._next_call)

    def _mark_started(self) -> None:
        if self._stopping is not None:
            self._stopping.wait(1 + self._builder.shared.timeout_s)
        with self._start_stop_lock.get():
            if not self._started:
                self._started = True
                self._builder.shared.open()

    def _wait_for_first(self, timeout: float) -> None:
        self._source.warn_if_fixed()
        if not self._wait(lambda: self._loader.current is not None, timeout) and self._fallback is not None:
            self._loader.use_fallback(self._fallback, self._process_state.get())
        if self._loader.current is None:
            raise self._unavailable_error(f"no valid datafile within {timeout:g} s")

    def _ensure_running(self) -> ProcessState | None:
        """Start the watcher thread if need be, and stand in for it when it hangs. Costs a microsecond on each use."""
        if not self._started:
            return None
        state = self._process_state.get()
        heartbeat_at = state.heartbeat_at
        # stop() may have been called since the first check, and then get() has made a state that nothing would stop.
        if monotonic() - heartbeat_at > _HEARTBEAT_TIMEOUT_S and self._started:
            self._loader.check(state)
            if is_about_to_fork_in_c():
                return state
            state.heartbeat_at = max(state.heartbeat_at, monotonic())  # the thread may have set a later time
            has_thread = state.start()
            is_missed = self._source.has_thread and not (has_thread and heartbeat_at == NEVER)
            if is_missed and not state.has_warned:
                state.has_warned = True
                _log.warning("Watcher thread stuck or missing (slow callback? uWSGI without threads?); checking on use")
        return state

    def _wait(self, condition: Callable[[], bool], timeout: float) -> bool:
        """Wait until the condition holds, the time is over or the watcher is stopped. Return whether the condition holds."""
        deadline = monotonic() + timeout
        while (state := self._ensure_running()) and not condition() and (left := deadline - monotonic()) > 0:
            with state.changed:
                state.changed.wait_for(condition, min(left, _WAIT_STEP_S))
        return condition()

    def _take_turn(self, state: ProcessState, is_event: bool) -> Report:
        """Look at the file if there is a reason, call the listeners, and return what to report to the sidecar."""
        now = monotonic()
        if is_event or now >= state.rescan_at:
            state.rescan_at = now + self._rescan_interval_s
            # A time in the future, so that during a slow build no request checks the file and waits for the build.
            state.heartbeat_at = now + _BUILD_MAX_S
            self._loader.check(state)
        state.heartbeat_at = monotonic()
        state.calls.make()
        current = self._loader.current
        return Report(current and current.revision, current and current.sha256, state.refused, state.refused_sha256)

    def _next_call(self, state: ProcessState) -> tuple[Listener, BuiltInstance] | None:
        if (current := self._loader.current) is None or state.stopping:
            return None
        due = (one for one in list(self._listeners) if one.is_due(current))
        return next(((one, current) for one in due), None)

    def _get_current(self) -> BuiltInstance:
        self._ensure_running()
        if self._loader.current is None:
            raise self._unavailable_error("none has been loaded yet")
        return self._loader.current

    def _unavailable_error(self, reason: str) -> DatafileUnavailableError:
        if not self._started:
            reason = "the watcher is not running, call start()"
        if self._loader.last_error is not None:
            reason = f"{reason} ({self._loader.last_error})"
        if self._loader.fallback_error is not None:
            reason = f"{reason}; the fallback cannot be used ({self._loader.fallback_error})"
        return DatafileUnavailableError(self._sdk_key, self._source.path, reason)
