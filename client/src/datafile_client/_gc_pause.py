"""Keeps long garbage collections out of a build and out of what follows it, and leaves the app's collector as it was.

Of three generations, the youngest is collected as always: that takes a tenth of a millisecond, and the app's own garbage goes. The
next two would go through all new objects once more, and stall all threads for long. So what a build has made is moved to the oldest
generation at its end, and what the collector counts is made up for: without that, an app that builds often would never collect in
full.
"""

import contextlib
import gc
import os
import threading
from collections.abc import Iterator

_NEVER = 2**31 - 1
_GROWTH = 1.25  # CPython, too, collects in full when a quarter has been added to the oldest generation
# The interpreter itself freezes some hundred objects on 3.12. More are the app's.
_FROZEN_BY_PYTHON = 2000


class _Pause:
    """The pause of one process. Its lock is held for moments, in which nothing of others runs."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._builds = 0
        self._thresholds = (0, 0, 0)
        self._counts = (0, 0, 0)
        self._full_collections = -1
        self._objects = 0

    def begin(self) -> None:
        with self._lock:
            self._builds += 1
            if self._builds == 1:
                self._counts, self._thresholds = gc.get_count(), gc.get_threshold()
                gc.set_threshold(self._thresholds[0], _NEVER, self._thresholds[2])

    def end(self) -> None:
        is_due = False
        with self._lock:
            self._builds -= 1
            if self._builds == 0:
                # As many collections of the youngest as make one of the next generation due.
                is_large = gc.get_count()[1] > self._thresholds[1]
                if is_large and gc.isenabled() and gc.get_freeze_count() < _FROZEN_BY_PYTHON:
                    is_due = self._age()
                self.resume()
        if is_due:
            gc.collect()  # not under the lock, for it may run finalizers of the app

    def resume(self) -> None:
        """Let the collector run again, unless the app has set it up anew."""
        if gc.get_threshold() == (self._thresholds[0], _NEVER, self._thresholds[2]):
            gc.set_threshold(*self._thresholds)

    def _age(self) -> bool:
        """Move all objects to the oldest generation. Return whether so many came there that it has to be collected."""
        gc.freeze()
        objects = gc.get_freeze_count()
        gc.unfreeze()
        # That has set the counts of collections to 0. The younger generations are empty, so each of these takes a microsecond.
        for generation in (1, 0):
            for _ in range(min(self._counts[generation + 1], self._thresholds[generation + 1] + 1)):
                gc.collect(generation)
        full_collections = gc.get_stats()[2]["collections"]
        if full_collections != self._full_collections:
            self._full_collections, self._objects = full_collections, objects
        return objects > _GROWTH * self._objects


_pause = _Pause()


@contextlib.contextmanager
def gc_paused() -> Iterator[None]:
    """Pause cyclic garbage collection for one build."""
    pause = _pause
    pause.begin()
    try:
        yield
    finally:
        pause.end()


def _resume_in_child() -> None:
    """End the pause that a child has inherited, of a build that only the parent goes on with."""
    global _pause
    inherited, _pause = _pause, _Pause()
    if inherited._builds:
        inherited.resume()


os.register_at_fork(after_in_child=_resume_in_child)
