"""Tells OpenFeature what happens to a watcher: READY, STALE, CONFIGURATION_CHANGED, in every process.

All of it is told in the watcher's own turns, on the thread of its callbacks. OpenFeature's status of the provider is compared with
the watcher's: what differs is told, whatever has come in between.
"""

import contextlib
import os
import weakref
from collections.abc import Iterator

from openfeature.event import ProviderEvent, ProviderEventDetails
from openfeature.exception import ErrorCode
from openfeature.provider import AbstractProvider, ProviderStatus
from openfeature.provider._registry import provider_registry

from datafile_client import _log
from datafile_client._clock import monotonic
from datafile_client._flag_changes import FlagChanges, flag_digests
from datafile_client._instance_builder import BuiltInstance
from datafile_client._update_listeners import Listener
from datafile_client._watcher import OptimizelyWatcher

_LOOK_EVERY_S = 1.0


class EventListener(Listener):
    """Listens to a watcher for one provider."""

    def __init__(self, provider: AbstractProvider, watcher: OptimizelyWatcher) -> None:
        super().__init__(lambda: None, wants_changes=True)
        self._provider, self._watcher = provider, watcher
        self._is_stale = False
        self._is_ended = False
        self._look_at = float("-inf")

    @contextlib.contextmanager
    def after_start(self) -> Iterator[None]:
        """Listen from the end of this block on, in which the watcher starts. OpenFeature itself tells how that ends."""
        _starting.add(self)
        try:
            yield
        finally:
            _starting.discard(self)
            if (current := self._watcher._loader.current) is not None:
                self._note(current)
            if not self._is_ended:  # by a shutdown, meanwhile
                self._watcher._listeners[self] = None

    def end(self) -> bool:
        """Listen no more. Return whether nothing else tells OpenFeature of this watcher."""
        self._is_ended = True
        self._watcher._listeners.pop(self, None)
        return not any(isinstance(one, EventListener) for one in list(self._watcher._listeners))

    def go_on_in_child(self) -> None:
        """Do what the parent's thread would do that starts the watcher. While OpenFeature waits, it never asks the provider."""
        self._watcher._listeners[self] = None
        details = ProviderEventDetails(message="no datafile yet", error_code=ErrorCode.PROVIDER_NOT_READY)
        self._provider.emit(ProviderEvent.PROVIDER_ERROR, details)

    def is_due(self, current: BuiltInstance) -> bool:
        """Tell whether there is something to tell."""
        return super().is_due(current) or self._due_event() is not None

    def call(self, current: BuiltInstance) -> None:
        """Tell it. An error is logged."""
        try:
            if super().is_due(current):
                self._tell_changes(current)
            if (event := self._due_event()) is not None:
                self._provider.emit(event, ProviderEventDetails(message=self._watcher.status().last_error))
        except Exception:
            _log.error("OpenFeature could not be told of revision %d", current.revision, exc_info=True)

    def _tell_changes(self, current: BuiltInstance) -> None:
        is_first, before = self.called_with is None, self.digests
        self._note(current)
        if not is_first:
            changes = FlagChanges.between(before, self.digests)
            keys = sorted(changes.added | changes.removed | changes.changed)
            metadata: dict[str, bool | str | int | float] = {"revision": current.revision}
            self._provider.emit(
                ProviderEvent.PROVIDER_CONFIGURATION_CHANGED,
                ProviderEventDetails(flags_changed=keys, metadata=metadata),
            )

    def _note(self, current: BuiltInstance) -> None:
        self.called_with, self.digests = current.optimizely, flag_digests(current.datafile)

    def _due_event(self) -> ProviderEvent | None:
        if monotonic() >= self._look_at:
            self._look_at = monotonic() + _LOOK_EVERY_S
            self._is_stale = self._watcher.status().stale
        status = provider_registry.get_provider_status(self._provider)
        if self._is_stale:
            return ProviderEvent.PROVIDER_STALE if status in (ProviderStatus.READY, ProviderStatus.ERROR) else None
        return ProviderEvent.PROVIDER_READY if status in (ProviderStatus.STALE, ProviderStatus.ERROR) else None


def _go_on_in_child() -> None:
    for listener in list(_starting):
        listener.go_on_in_child()


_starting: "weakref.WeakSet[EventListener]" = weakref.WeakSet()
os.register_at_fork(after_in_child=_go_on_in_child)
