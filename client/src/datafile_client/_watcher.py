"""The public class: start, wait, swap, tell, fork, stop."""

import asyncio
import datetime
import hashlib
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

from optimizely.optimizely import Optimizely

from datafile_client._engine import NEVER, Engine
from datafile_client._instance import Builder, Loaded, resume_collection_in_child
from datafile_client._options import check_options, check_seconds, choose_sdk_key
from datafile_client._process import PerProcess, stop_at_exit
from datafile_client._report import Report
from datafile_client._source import Found, Source, is_mount_of_its_own, read_file
from datafile_client._status import WatcherStatus
from datafile_client.errors import DatafileUnavailableError, InvalidDatafileError

_DEFAULT_DIRECTORY = "/var/run/datafile"
_TICK_MAX_S = 2.0
_LATE_S = 3.0

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
        self._directory = Path(directory or os.environ.get("DATAFILE_DIR") or _DEFAULT_DIRECTORY).absolute()
        self._path = self._directory / f"{self._sdk_key}.json"
        self._fallback = Path(fallback).absolute() if fallback is not None else None
        self._stale_after_s = check_seconds("stale_after_s", stale_after_s)
        self._rescan_interval_s = check_seconds("rescan_interval_s", rescan_interval_s) or 1.0
        self._tick_s = min(self._rescan_interval_s, _TICK_MAX_S)
        check_options(optimizely_options or {})
        self._builder = Builder(self._sdk_key, dict(optimizely_options or {}))
        self._engine: PerProcess[Engine] = PerProcess(self._make_engine)
        self._started = False
        self._current: Loaded | None = None
        self._checked_at: datetime.datetime | None = None
        self._last_error: str | None = None
        self._listeners: tuple[_Listener, ...] = ()

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
        if not self._started:
            if (stopped := self._engine.peek()) is not None and stopped.stopping:
                self._engine.drop()
            self._builder.parts.reopen()
            self._started = True
        # uWSGI's master lets go of the GIL and forks in C: a thread that just holds it would take it into no child's hands.
        attend = partial(self._attend, launch="uwsgi" not in sys.modules)
        engine = attend()
        if is_mount_of_its_own(self._path):
            _log.warning(
                "%s is a mount of its own (subPath?) and never changes. Mount its directory instead", self._path
            )
        if engine is not None:
            engine.wait(lambda: self._current is not None, timeout, attend)
        if self._current is None and not self._fall_back(engine):
            raise self._unavailable(f"nothing valid within {timeout:g} s")

    def stop(self) -> None:
        """Stop watching and send the events that are queued; the last instance decides on.

        Takes at most the event processor's `timeout_interval` (5 s unless set) and a second; may be called again and at any
        time. Runs by itself when the process exits, also in children of multiprocessing and Celery.
        """
        if not self._started:
            return
        self._started = False
        engine = self._engine.peek()
        if engine is not None:
            engine.stop()  # and it stays, so that a use that comes at this moment starts no other
        self._builder.parts.end()

    @property
    def optimizely(self) -> Optimizely:
        """The instance that decides now. Take it once per request.

        Raises:
            DatafileUnavailableError: there is none yet.
        """
        self._attend()
        return self._loaded().optimizely

    @property
    def revision(self) -> int:
        """The revision of the datafile that decides now.

        Raises:
            DatafileUnavailableError: there is none yet.
        """
        self._attend()
        return self._loaded().revision

    def status(self) -> WatcherStatus:
        """Say what decides now, how fresh it is, and what is wrong. Never raises, and reads one small file."""
        self._attend()
        status = WatcherStatus(sdk_key=self._sdk_key, path=str(self._path), last_error=self._last_error)
        if (current := self._current) is None:
            return replace(status, stale=self._stale_after_s is not None)
        vouched = Source(self._directory, self._sdk_key).vouched()
        if vouched is not None and vouched.sha256 == current.sha256:
            self._checked_at = vouched.checked
        age = datetime.datetime.now(datetime.UTC) - (self._checked_at or current.loaded_at)
        return replace(
            status,
            revision=current.revision,
            sha256=current.sha256,
            source=current.source,
            loaded_at=current.loaded_at,
            checked_at=self._checked_at,
            stale=self._stale_after_s is not None and age.total_seconds() > self._stale_after_s,
        )

    def on_update(self, callback: Callable[[Optimizely], object]) -> Callable[[], None]:
        """Have `callback(optimizely)` called after each swap, and once for the present instance if there is one.

        It runs on the watcher's thread, which does not watch meanwhile; an exception is logged and disturbs nobody.

        Returns:
            A function that removes the callback; harmless when called again.
        """
        listener = _Listener(callback)
        self._listeners = (*self._listeners, listener)
        if (engine := self._attend()) is not None:
            engine.wake.set()

        def remove() -> None:
            self._listeners = tuple(other for other in self._listeners if other is not listener)

        return remove

    def wait_for_revision(self, revision: int, timeout: float = 30) -> bool:
        """Wait until this revision or a newer one decides here.

        Args:
            revision: the number to wait for.
            timeout: seconds to wait.

        Returns:
            Whether it came in time.
        """

        def done() -> bool:
            return self._current is not None and self._current.revision >= revision

        if (engine := self._attend()) is not None:
            engine.wait(done, timeout, self._attend)
        return done()

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
            await asyncio.to_thread(self.start)
        except BaseException:
            self.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.stop)

    # In each process: an engine, made and started at its first use there.

    def _make_engine(self, inherited: Engine | None) -> Engine:
        if inherited is not None:
            inherited.report.close()  # as long as a copy is open, the parent would count as alive
        resume_collection_in_child()
        stop_at_exit(self)
        return Engine(Source(self._directory, self._sdk_key), Report(self._directory, self._sdk_key))

    def _attend(self, *, launch: bool = True) -> Engine | None:
        """Make sure that somebody looks; runs at every use and costs a microsecond."""
        if not self._started:
            return None
        engine = self._engine.get()
        now, ran_at = time.monotonic(), engine.ran_at
        if now - ran_at > max(_LATE_S, 2 * self._tick_s):
            self._look(engine)
            if launch and ran_at == NEVER:  # others may find the same; the thread is started once
                engine.launch(self._run, f"datafile {self._sdk_key}")
            elif launch and not engine.warned:
                engine.warned = True
                _log.warning("The watching thread is held up (slow callback? uWSGI without threads?); looking at use")
            if launch:
                engine.ran_at = now
        return engine

    def _run(self, engine: Engine) -> None:
        look_at = 0.0
        for hinted in engine.source.hints(engine.wake, self._tick_s):
            if engine.stopping:
                return
            engine.ran_at = time.monotonic()
            if hinted or engine.ran_at >= look_at:
                look_at = engine.ran_at + self._rescan_interval_s
                self._look(engine)
            self._tell()
            if self._current is not None:
                engine.report.keep_up(self._current.revision, engine.ran_at)

    def _look(self, engine: Engine) -> None:
        with engine.lock:
            try:
                found = engine.source.look()
                if found is None:
                    return
                swapped = self._take(found)
                self._last_error = None
            except Exception as error:  # a request must not fail for it, and the thread must live
                self._complain(error)
                return
        if swapped:
            self._builder.announce()
            engine.announce()

    def _take(self, found: Found) -> bool:
        current = self._current
        if current is not None and current.sha256 == found.sha256:
            self._current = replace(current, source="file")
            return False
        self._swap(self._builder.build(found.data, found.sha256, self._path, vouched=found.vouched))
        return True

    def _swap(self, loaded: Loaded) -> None:
        self._builder.activate(loaded)
        self._current, self._checked_at = loaded, None
        _log.info("Deciding by revision %d of %s (%s)", loaded.revision, self._sdk_key, loaded.source)

    def _tell(self) -> None:
        for listener in self._listeners:
            current = self._current
            if current is None or listener.told is current.optimizely:
                continue
            listener.told = current.optimizely
            try:
                listener.callback(current.optimizely)
            except Exception:
                _log.exception("An on_update callback failed at revision %d", current.revision)

    def _complain(self, error: Exception) -> None:
        if str(error) != self._last_error:  # once, not at every look
            self._last_error = str(error)
            _log.warning("%s", error, exc_info=not isinstance(error, InvalidDatafileError))

    def _fall_back(self, engine: Engine | None) -> bool:
        if self._fallback is None or engine is None:
            return False
        try:
            data = read_file(self._fallback)
            sha256 = hashlib.sha256(data).hexdigest()
            loaded = self._builder.build(data, sha256, self._fallback, vouched=False, source="fallback")
        except InvalidDatafileError as error:
            _log.error("The fallback cannot be used: %s", error)
            return False
        with engine.lock:
            if self._current is None:
                self._swap(loaded)
        self._builder.announce()
        engine.announce()
        return True

    def _loaded(self) -> Loaded:
        if self._current is None:
            raise self._unavailable("start() was not called" if not self._started else "none has come yet")
        return self._current

    def _unavailable(self, reason: str) -> DatafileUnavailableError:
        if self._last_error is not None:
            reason = f"{reason} ({self._last_error})"
        return DatafileUnavailableError(self._sdk_key, self._path, reason)
