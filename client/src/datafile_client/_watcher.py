"""The public class: start, wait, swap, tell, fork, stop."""

import asyncio
import datetime
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from optimizely.optimizely import Optimizely

from datafile_client._engine import NEVER, Engine
from datafile_client._instance import Builder, Loaded
from datafile_client._options import check_options, check_seconds, choose_sdk_key
from datafile_client._process import PerProcess, is_about_to_fork_in_c, lock_per_process, stop_at_exit
from datafile_client._source import Found, Source, is_mount_of_its_own, read_file
from datafile_client._status import WatcherStatus
from datafile_client.errors import DatafileUnavailableError, InvalidDatafileError

_TICK_MAX_S = 2.0
_LATE_S = 4.0
_BUSY_MAX_S = 60.0
_POLL_S = 0.05

_log = logging.getLogger("datafile_client")


@dataclass(eq=False, slots=True)
class _Listener:
    callback: Callable[[Optimizely], object]
    told: Optimizely | None = None


class OptimizelyWatcher:
    """Keeps an `Optimizely` instance in step with the datafile that the sidecar publishes.

    Take `optimizely` once per request: the whole request then decides by one revision. Safe to use from any thread, from
    asyncio, and in forked children, where the first use starts what a fork cannot carry over.

    Args:
        sdk_key: may be left out where the environment variable DATAFILE_SDK_KEYS holds exactly one.
        directory: the shared directory; else DATAFILE_DIR, else /var/run/datafile. It need not exist yet.
        fallback: a datafile to decide by when none appears in time.
        optimizely_options: what the SDK's constructor takes, kept across rebuilds.
        stale_after_s: how long a datafile may go unconfirmed before `status().stale`; None means never.
        rescan_interval_s: seconds between two looks at the file where no event comes.

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
        self._builder = Builder(self._sdk_key, dict(optimizely_options or {}))
        self._engine: PerProcess[Engine] = PerProcess(self._make_engine)
        self._turn = lock_per_process()
        self._started = False
        self._current: Loaded | None = None
        self._checked_at: datetime.datetime | None = None
        self._last_error: str | None = None
        self._listeners: dict[_Listener, None] = {}

    def __repr__(self) -> str:
        current = self._current
        return f"<OptimizelyWatcher {self._path} {f'revision {current.revision}' if current else 'without a datafile'}>"

    def start(self, timeout: float = 30) -> None:
        """Load the datafile and begin to watch; wait for it if it is not there yet.

        Harmless when it runs already; a stopped watcher may be started again.

        Args:
            timeout: seconds to wait for a valid datafile. 0 never waits.

        Raises:
            DatafileUnavailableError: none came in time, and there is no usable fallback. The watcher goes on watching: who
                catches this can carry on, and `optimizely` works as soon as a datafile is there.
        """
        self._begin()
        self._await_first(timeout)

    def stop(self) -> None:
        """Stop watching and send the events that are queued; the last instance decides on.

        Takes at most the event processor's `timeout_interval` (5 s unless set) and a second; may be called again and at any
        time. Runs by itself when the process exits, also in children of multiprocessing and Celery.
        """
        with self._turn.get():
            if not self._started:
                return
            self._started = False
            if (engine := self._engine.peek()) is not None:
                engine.stop()
                self._engine.drop()
            self._builder.parts.end()

    @property
    def optimizely(self) -> Optimizely:
        """The instance that decides now. Take it once per request.

        Raises:
            DatafileUnavailableError: there is none yet.
        """
        return self._loaded().optimizely

    @property
    def revision(self) -> int:
        """The revision of the datafile that decides now.

        Raises:
            DatafileUnavailableError: there is none yet.
        """
        return self._loaded().revision

    def status(self) -> WatcherStatus:
        """Say what decides now, how fresh it is, and what is wrong. Never raises, and reads one small file."""
        self._attend()
        current, limit_s, now = self._current, self._stale_after_s, datetime.datetime.now(datetime.UTC)
        if current is not None:
            is_vouched, checked_at = Source(self._directory, self._sdk_key).vouched(current.sha256)
            self._checked_at = checked_at if is_vouched else self._checked_at
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
        """Have `callback(optimizely)` called after each swap, and once for the present instance if there is one.

        It runs on the watcher's thread, which does not watch meanwhile; an exception is logged and disturbs nobody.

        Returns:
            A function that removes the callback, though a call may just be under way. Harmless when called again.
        """
        listener = _Listener(callback)
        self._listeners[listener] = None
        if (engine := self._attend()) is not None:
            engine.wake.set()

        def remove() -> None:
            self._listeners.pop(listener, None)

        return remove

    def wait_for_revision(self, revision: int, timeout: float = 30) -> bool:
        """Wait until this revision or a newer one decides here.

        Args:
            revision: the number to wait for.
            timeout: seconds to wait.

        Returns:
            Whether it came in time.
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
            self._begin()  # not in the thread: who gives up waiting must find something to stop
            await asyncio.to_thread(self._await_first)
        except BaseException:
            await asyncio.to_thread(self.stop)
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.stop)

    # In each process: an engine, made and started at its first use there.

    def _make_engine(self, inherited: Engine | None) -> Engine:
        if inherited is not None:
            inherited.report.close()  # as long as a copy is open, the parent would count as alive
        stop_at_exit(self)
        return Engine(self._directory, self._sdk_key)

    def _begin(self) -> None:
        with self._turn.get():
            if not self._started:
                self._builder.parts.reopen()
                self._started = True

    def _await_first(self, timeout: float = 30) -> None:
        if is_mount_of_its_own(self._path):
            _log.warning("%s is a mount (subPath?) and never changes. Mount its directory instead", self._path)
        if not self._wait(lambda: self._current is not None, timeout) and self._fallback is not None:
            self._fall_back(self._fallback, self._engine.get())
        if self._current is None:
            raise self._unavailable(f"nothing valid within {timeout:g} s")

    def _attend(self) -> Engine | None:
        """Make sure that somebody looks; runs at every use and costs a microsecond."""
        if not self._started:
            return None
        engine = self._engine.get()
        ran_at = engine.ran_at
        if time.monotonic() - ran_at > _LATE_S and self._started:  # a stop() may have come before the engine
            self._look(engine)
            if is_about_to_fork_in_c():
                return engine
            engine.ran_at = max(engine.ran_at, time.monotonic())  # the thread may be at it by now
            is_launched = ran_at == NEVER and engine.launch(self._run, f"datafile {self._sdk_key}")
            if not is_launched and not engine.warned:
                engine.warned = True
                _log.warning("The watching thread is held up (slow callback? uWSGI without threads?); looking at use")
        return engine

    def _wait(self, done: Callable[[], bool], timeout: float) -> bool:
        """Wait until it is done, the time is over or the watcher is stopped; look meanwhile if the thread does not."""
        deadline = time.monotonic() + timeout
        while (engine := self._attend()) is not None and not done() and (left := deadline - time.monotonic()) > 0:
            with engine.changed:
                engine.changed.wait_for(done, min(left, _POLL_S))
        return done()

    def _run(self, engine: Engine) -> None:
        look_at = 0.0
        for hinted in engine.source.hints(engine.wake, min(self._rescan_interval_s, _TICK_MAX_S)):
            if engine.stopping:
                return
            now = time.monotonic()
            if hinted or now >= look_at:
                look_at = now + self._rescan_interval_s
                engine.ran_at = now + _BUSY_MAX_S  # no request shall wait for a slow build
                self._look(engine)
            engine.ran_at = time.monotonic()
            self._tell(engine)
            if self._current is not None and not engine.stopping:
                engine.report.keep_up(self._current.revision, engine.ran_at)

    def _look(self, engine: Engine) -> None:
        is_new, complaint, trace = False, None, None
        with engine.lock:
            try:
                if (found := engine.source.look()) is not None:
                    is_new = self._take(found, "file")
                    self._last_error = None
            except Exception as error:  # a request must not fail for it, and the thread must live
                if str(error) != self._last_error:  # once, not at every look
                    complaint, trace = str(error), None if isinstance(error, InvalidDatafileError) else error
                self._last_error = str(error)
        # Only now: who holds a log handler's lock may ask for the revision at this moment, and wait for ours.
        if complaint is not None:
            _log.warning("%s", complaint, exc_info=trace)
        elif is_new:
            self._announce(engine)

    def _take(self, found: Found, source: str) -> bool:
        """Decide by what was found; tell whether that is news."""
        current = self._current
        if current is not None and current.sha256 == found.sha256:
            self._current = replace(current, source=source)
            return False
        self._current = self._builder.build(found.data, found.sha256, found.path, vouched=found.vouched, source=source)
        self._checked_at = None
        return True

    def _announce(self, engine: Engine) -> None:
        if (current := self._current) is not None:
            _log.info("Deciding by revision %d of %s (%s)", current.revision, self._sdk_key, current.source)
        self._builder.announce()
        engine.announce()

    def _tell(self, engine: Engine) -> None:
        for listener in list(self._listeners):
            current, is_wanted = self._current, listener in self._listeners and not engine.stopping
            if current is None or not is_wanted or listener.told is current.optimizely:
                continue
            listener.told = current.optimizely
            try:
                listener.callback(current.optimizely)
            except BaseException:  # sys.exit() would end the thread, and nothing else
                _log.exception("An on_update callback failed at revision %d", current.revision)

    def _fall_back(self, path: Path, engine: Engine) -> None:
        try:
            with engine.lock:
                if self._current is None:
                    self._take(read_file(path), "fallback")
        except InvalidDatafileError as error:
            _log.error("The fallback cannot be used: %s", error)
        else:
            self._announce(engine)

    def _loaded(self) -> Loaded:
        self._attend()
        if self._current is None:
            raise self._unavailable("none has come yet")
        return self._current

    def _unavailable(self, reason: str) -> DatafileUnavailableError:
        if not self._started:
            reason = "the watcher is not running, call start()"
        if self._last_error is not None:
            reason = f"{reason} ({self._last_error})"
        return DatafileUnavailableError(self._sdk_key, self._path, reason)
