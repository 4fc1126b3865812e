"""Random trouble in one process of an app: `make trouble`.

Eight threads decide, and each decision is an event. Meanwhile datafiles are swapped, signals interrupt, children are forked, the
watcher is stopped and started, and the app's own handlers and callbacks raise. No decision mixes two revisions or goes back, no
event is lost or sent twice, and nothing hangs.
"""

import argparse
import contextlib
import json
import logging
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from optimizely.helpers.enums import NotificationTypes

from datafile_client import OptimizelyWatcher
from tests.client.helpers import publish_flags_with_revision
from tests.stopwatch import Stopwatch

_THREADS = 8
_CHILD_ENDS_WITHIN_S = 30


class Dispatcher:
    """Writes down each event that is sent, by its user."""

    def __init__(self, sent: Path) -> None:
        self._sent = sent

    def dispatch_event(self, event: Any) -> None:
        """Append the users of all visits in one write."""
        lines = "".join(f"{visitor['visitor_id']}\n" for visitor in event.params["visitors"])
        with self._sent.open("ab", buffering=0) as file:
            file.write(lines.encode())


class Raises(logging.Handler):
    """A handler with a fault, now and then."""

    def emit(self, record: logging.LogRecord) -> None:
        """Fail once in three times."""
        if random.random() < 0.3:
            raise RuntimeError("handler down")


def _fail(*_: object) -> None:
    raise RuntimeError("listener down")


class Trouble:
    """One process of an app in trouble."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.counts = Counter[str]()
        self.wrong: list[str] = []
        self.slowest_s = 0.0
        self._directory, self._sent = directory, directory / "sent"
        self._random = random.Random(seed)
        self._revision = 1
        self._ends = threading.Event()
        self._epoch = self._stops = 0
        self._due: set[str] = set()
        publish_flags_with_revision(directory, 1)
        options: Any = {
            "event_dispatcher": Dispatcher(self._sent),
            "event_processor_options": {"batch_size": 10, "flush_interval": 0.2, "timeout_interval": 20},
        }
        self._watcher = OptimizelyWatcher(sdk_key="KEY1", directory=directory, optimizely_options=options)
        self._watcher.on_update(lambda _: 1 / 0)

    def run(self, seconds: float) -> None:
        """Make trouble for so long, and see what came of it."""
        logger = logging.getLogger("datafile_client")
        logger.propagate = False
        logger.addHandler(Raises())
        logger.setLevel(logging.INFO)
        self._watcher.start()
        center = self._watcher.optimizely.notification_center
        center.add_notification_listener(NotificationTypes.DECISION, _fail)
        signal.signal(signal.SIGALRM, self._interrupt)
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        threads = [threading.Thread(target=self._serve, args=(number,)) for number in range(_THREADS)]
        for thread in threads:
            thread.start()
        ends_at = time.monotonic() + seconds
        while time.monotonic() < ends_at:
            for action, odds in ((self._swap, 0.6), (self._fork, 0.15), (self._restart, 0.05)):
                if self._random.random() < odds:
                    action()
            time.sleep(self._random.random() * 0.05)
        signal.setitimer(signal.ITIMER_REAL, 0)
        self._ends.set()
        for thread in threads:
            thread.join(30)
            if thread.is_alive():
                self.wrong.append(f"{thread.name} hangs")
        if not self._watcher.wait_for_revision(self._revision, timeout=10):
            self.wrong.append("the newest revision did not come")
        self._watcher.stop()
        self._count_events()

    def _serve(self, number: int) -> None:
        seen, event = 0, 0
        while not self._ends.is_set():
            stopwatch, event = Stopwatch(os.getpid()), event + 1
            began = time.monotonic()
            user = self._watcher.user(f"thread-{number}-{event}")
            decisions = user.decide_all(["DISABLE_DECISION_EVENT"])
            revisions = {decision.variables["revision"] for decision in decisions.values()}
            self._track(user, f"thread-{number}-{event}")
            took_s = time.monotonic() - began
            if took_s > self.slowest_s:
                self.slowest_s = max(self.slowest_s, took_s - stopwatch.held_up_s())
            if len(revisions) != 1 or max(revisions) < seen:
                self.wrong.append(f"decided by {revisions} after {seen}")
            seen = max(revisions)
            self.counts["decided"] += 1
            time.sleep(0.002)

    def _track(self, user: Any, name: str) -> None:
        """Track an event; it is due if the watcher has run all the time."""
        epoch = self._epoch
        if self._stops:
            return
        user.decide("flag-0")
        if (epoch, 0) == (self._epoch, self._stops):
            self._due.add(name)

    def _interrupt(self, *_: object) -> None:
        """What the app's signal handler does, in whatever the main thread is about to do."""
        self.counts["interrupted"] += 1
        self._watcher.status()
        if self._random.random() < 0.03:
            self._restart()
        signal.setitimer(signal.ITIMER_REAL, 0.01 + self._random.random() * 0.05)

    def _swap(self) -> None:
        self._revision += 1
        publish_flags_with_revision(self._directory, self._revision)
        self.counts["swapped"] += 1

    def _restart(self) -> None:
        self._epoch += 1
        self._stops += 1
        self._watcher.stop()
        self._watcher.start()
        self._stops -= 1
        self.counts["restarted"] += 1

    def _fork(self) -> None:
        if self._stops:
            return
        self.counts["forked"] += 1
        child = os.fork()
        if not child:
            self._live()
        name, ends_at = f"child-{child}", time.monotonic() + _CHILD_ENDS_WITHIN_S
        while os.waitpid(child, os.WNOHANG) == (0, 0):
            if time.monotonic() > ends_at:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                self.wrong.append(f"{name} hangs")
            time.sleep(0.005)
        self._due.add(name)

    def _live(self) -> None:
        """What a child does: decide, track one event, and end as multiprocessing's children do."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        try:
            user = self._watcher.user(f"child-{os.getpid()}")
            user.decide("flag-0", ["DISABLE_DECISION_EVENT"])
            user.decide("flag-0")
            self._watcher.stop()
        finally:
            os._exit(0)

    def _count_events(self) -> None:
        sent = Counter(self._sent.read_text().split())
        self.counts["events"] = len(self._due)
        if lost := self._due - sent.keys():
            self.wrong.append(f"{len(lost)} events are lost: {sorted(lost)[:5]}")
        if twice := [name for name, count in sent.items() if count > 1]:
            self.wrong.append(f"{len(twice)} events were sent twice: {twice[:5]}")


def main() -> int:
    """Run it, and print what was done as JSON."""
    parser = argparse.ArgumentParser(prog="python -m tests.trouble", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        trouble = Trouble(Path(directory), options.seed)
        trouble.run(options.seconds)
    if trouble.slowest_s > 1:
        trouble.wrong.append(f"a request took {trouble.slowest_s:.2f} s")
    print(json.dumps({**trouble.counts, "slowest_s": round(trouble.slowest_s, 3), "wrong": trouble.wrong}))
    return int(bool(trouble.wrong))


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        sys.exit(main())
