"""An app for tests and the demo: a parent process and its workers. Each worker has an `OptimizelyWatcher`.

A real app decides when a request comes in. This one decides once a millisecond and prints each change as a line of JSON, so
that a test can see when each worker used which revision.
"""

import argparse
import json
import multiprocessing
import signal
import sys
import threading
import time
from multiprocessing.connection import wait

from optimizely.decision.optimizely_decide_option import OptimizelyDecideOption
from optimizely.decision.optimizely_decision import OptimizelyDecision
from optimizely.optimizely import Optimizely

from datafile_client import OptimizelyWatcher

FLAG = "checkout"
"""Its variable `revision` is the revision of its datafile, so that one decision shows both."""

NO_EVENTS = [OptimizelyDecideOption.DISABLE_DECISION_EVENT]
"""Decide options: this app sends no events to Optimizely."""


def work() -> None:
    """Run one worker: decide until SIGTERM, or until the parent is gone."""
    stop = _stop_on(signal.SIGTERM)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C also reaches the parent, which ends its workers
    parent = multiprocessing.parent_process()
    answer = None
    with OptimizelyWatcher(optimizely_options={"default_decide_options": NO_EVENTS}) as watcher:
        while not stop.is_set() and not wait([parent.sentinel] if parent else [], 0.001):
            decision = decide(watcher.optimizely)
            if (decision.enabled, decision.variables) != answer:
                answer = decision.enabled, decision.variables
                decided = time.time()
                loaded_at = watcher.status().loaded_at
                report(*answer, loaded_at.timestamp() if loaded_at else decided, decided)


def decide(optimizely: Optimizely) -> OptimizelyDecision:
    """Decide as a request would. Neither the instance nor the user context is kept."""
    user = optimizely.create_user_context("user-1")
    assert user  # None only if the user id is not a string
    return user.decide(FLAG)


def report(on: bool, variables: dict[str, str], loaded: float, decided: float) -> None:
    """Print one decision.

    Args:
        on: whether the flag is on.
        variables: the flag's variables.
        loaded: when the datafile was loaded, in Unix seconds.
        decided: when the decision was made, in Unix seconds.
    """
    worker = multiprocessing.current_process().pid
    fields = {"worker": worker, "revision": int(variables["revision"]), "on": on, "loaded": loaded, "decided": decided}
    print(json.dumps(fields), flush=True)


def main() -> int:
    """Run the workers until SIGTERM or SIGINT. Return 1 when a worker ended by itself or with an error."""
    parser = argparse.ArgumentParser(description="An app that decides all the time.")
    parser.add_argument("--workers", type=int, default=2)
    count = parser.parse_args().workers
    stop = _stop_on(signal.SIGTERM, signal.SIGINT)
    workers = [multiprocessing.get_context("spawn").Process(target=work, daemon=True) for _ in range(count)]
    for worker in workers:
        worker.start()
    ended_by_itself: list[object] = []
    while not stop.is_set() and not ended_by_itself:
        ended_by_itself += wait([worker.sentinel for worker in workers], 0.1)
    for worker in workers:
        worker.terminate()
    for worker in workers:
        worker.join(8)
    failed = [f"worker {worker.pid} ended with status {worker.exitcode}" for worker in workers if worker.exitcode != 0]
    print("\n".join(failed), file=sys.stderr)
    return int(bool(ended_by_itself or failed))


def _stop_on(*numbers: signal.Signals) -> threading.Event:
    stop = threading.Event()
    for number in numbers:
        signal.signal(number, lambda *_: stop.set())
    return stop


if __name__ == "__main__":
    sys.exit(main())
