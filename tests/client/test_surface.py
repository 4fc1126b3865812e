"""Every public method of the SDK gives on our instance what it gives on a plain one, and logs no more.

The methods come from the SDK by reflection, so that a method that a later SDK adds is missed here and nowhere else.
"""

import inspect
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from optimizely.optimizely import Optimizely
from optimizely.optimizely_user_context import OptimizelyUserContext

from benchmarks.client_datafiles import realistic
from datafile_client.testing import write_datafile
from tests.client.conftest import MakeWatcher
from tests.client.helpers import ODP, wait_until

Forced = OptimizelyUserContext.OptimizelyForcedDecision
RULE = OptimizelyUserContext.OptimizelyDecisionContext("flag-1", "rule-x1")


def _user(optimizely: Optimizely) -> OptimizelyUserContext:
    user = optimizely.create_user_context("user", {"attribute-1": "somebody"})  # type: ignore[arg-type]  # a NewType of dict
    assert user is not None
    user.set_forced_decision(RULE, Forced("variation-off"))
    return user


# For each method: what to call, given the instance or a context of it with one forced decision.
OPTIMIZELY: dict[str, Callable[[Any], Any]] = {
    "activate": lambda it: it.activate("rule-x1", "user"),
    "close": lambda it: it.close(),
    "create_user_context": lambda it: it.create_user_context("user", {"attribute-1": 1}).as_json(),
    "get_all_feature_variables": lambda it: it.get_all_feature_variables("flag-1", "user"),
    "get_enabled_features": lambda it: it.get_enabled_features("user"),
    "get_feature_variable": lambda it: it.get_feature_variable("flag-1", "variable-1", "user"),
    "get_feature_variable_boolean": lambda it: it.get_feature_variable_boolean("flag-1", "variable-1", "user"),
    "get_feature_variable_double": lambda it: it.get_feature_variable_double("flag-1", "variable-1", "user"),
    "get_feature_variable_integer": lambda it: it.get_feature_variable_integer("flag-1", "variable-1", "user"),
    "get_feature_variable_json": lambda it: it.get_feature_variable_json("flag-1", "variable-1", "user"),
    "get_feature_variable_string": lambda it: it.get_feature_variable_string("flag-1", "variable-1", "user"),
    "get_forced_variation": lambda it: it.get_forced_variation("rule-x1", "user"),
    "get_optimizely_config": lambda it: it.get_optimizely_config(),
    "get_variation": lambda it: it.get_variation("rule-x1", "user"),
    "is_feature_enabled": lambda it: it.is_feature_enabled("flag-1", "user"),
    "send_odp_event": lambda it: it.send_odp_event("action", {"email": "a@b.example"}),
    "set_forced_variation": lambda it: it.set_forced_variation("rule-x1", "other", "variation-on"),
    "track": lambda it: it.track("bought", "user"),
}
CONTEXT: dict[str, Callable[[Any], Any]] = {
    "as_json": lambda it: it.as_json(),
    "decide": lambda it: it.decide("flag-1", ["INCLUDE_REASONS"]),
    "decide_all": lambda it: it.decide_all(),
    "decide_for_keys": lambda it: it.decide_for_keys(["flag-0", "flag-1"]),
    "fetch_qualified_segments": lambda it: it.fetch_qualified_segments(),
    "find_forced_decision": lambda it: it.find_forced_decision(RULE).variation_key,
    "get_forced_decision": lambda it: it.get_forced_decision(RULE).variation_key,
    "get_qualified_segments": lambda it: (it.set_qualified_segments(["a"]), it.get_qualified_segments()),
    "get_user_attributes": lambda it: it.get_user_attributes(),
    "is_qualified_for": lambda it: it.is_qualified_for("a"),
    "remove_all_forced_decisions": lambda it: it.remove_all_forced_decisions(),
    "remove_forced_decision": lambda it: it.remove_forced_decision(RULE),
    "set_attribute": lambda it: (it.set_attribute("attribute-2", 2), it.get_user_attributes()),
    "set_forced_decision": lambda it: it.set_forced_decision(RULE, Forced("variation-on")),
    "set_qualified_segments": lambda it: (it.set_qualified_segments(["b"]), it.is_qualified_for("b")),
    "track_event": lambda it: it.track_event("bought", {"revenue": 100}),
}


# What goes wrong in an app: names that the datafile does not know, and values that the SDK does not take.
MISTAKES: dict[str, Callable[[Any], Any]] = {
    "activate": lambda it: it.activate("no", "user"),
    "create_user_context": lambda it: it.create_user_context(5),
    "decide": lambda it: it.create_user_context("user").decide("no", ["INCLUDE_REASONS"]),
    "get_all_feature_variables": lambda it: it.get_all_feature_variables("no", "user"),
    "get_feature_variable": lambda it: it.get_feature_variable("flag-1", "no", "user"),
    "get_forced_variation": lambda it: it.get_forced_variation("no", "user"),
    "get_variation": lambda it: it.get_variation("no", "user"),
    "is_feature_enabled": lambda it: it.is_feature_enabled("no", "user"),
    "send_odp_event": lambda it: it.send_odp_event("", {}),
    "set_forced_variation": lambda it: it.set_forced_variation("no", "user", "no"),
    "track": lambda it: it.track("no", "user", {"attribute-1": 1}, 5),
}


def _methods(kind: type) -> set[str]:
    return {name for name, _ in inspect.getmembers(kind, inspect.isfunction) if not name.startswith("_")}


class _Collected(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: Counter[tuple[str, str]] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        # Whether ODP's thread gets to its debug lines before or after the count is chance.
        if record.threadName == "MainThread":
            self.lines[record.levelname, record.getMessage()] += 1


class _Dispatcher:
    def dispatch_event(self, event: Any) -> None:
        """Let it vanish."""


class _Side:
    """One instance's answers, each with what was logged on the way."""

    def __init__(self, name: str) -> None:
        self.logger = logging.getLogger(f"surface.{name}")
        self.logger.setLevel(logging.DEBUG)
        self.logger.propagate = False
        self.handler = _Collected()
        self.logger.handlers = [self.handler]

    def options(self) -> dict[str, Any]:
        return {"logger": self.logger, "event_dispatcher": _Dispatcher()}

    def ask(self, optimizely: Optimizely, kind: str, method: str) -> tuple[str, Counter[tuple[str, str]]]:
        target: Any = _user(optimizely) if kind == "Context" else optimizely
        self.handler.lines.clear()
        answer = {"Optimizely": OPTIMIZELY, "Context": CONTEXT, "mistake": MISTAKES}[kind][method](target)
        return json.dumps(answer, default=_plain_data, sort_keys=True), Counter(self.handler.lines)


def _plain_data(value: Any) -> Any:
    fields = {
        name: field for name, field in vars(value).items() if name not in ("user_context", "client", "lock", "logger")
    }
    return {type(value).__name__: fields}


@contextmanager
def _plain(datafile: bytes) -> Iterator[tuple[_Side, Optimizely]]:
    side = _Side("plain")
    plain = Optimizely(datafile.decode(), **side.options())
    yield side, plain
    plain.close()


def _datafile(revision: int) -> bytes:
    datafile = json.loads(realistic(12_000, revision))
    audiences = datafile["typedAudiences"] + ODP["typedAudiences"]
    return json.dumps(datafile | ODP | {"typedAudiences": audiences, "sdkKey": "KEY1"}).encode()


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        *(("Optimizely", name) for name in sorted(_methods(Optimizely))),
        *(("mistake", name) for name in MISTAKES),
        *(("Context", name) for name in sorted(_methods(OptimizelyUserContext))),
    ],
)
def test_a_method_gives_what_a_plain_instance_gives(
    kind: str, method: str, directory: Path, make_watcher: MakeWatcher
) -> None:
    """A user may call anything of the SDK, before and after a swap, and cannot tell whose instance it is."""
    ours = _Side("ours")
    write_datafile(directory, "KEY1", _datafile(1))
    watcher = make_watcher(optimizely_options=ours.options())
    watcher.start()
    for revision in (1, 2):
        datafile = _datafile(revision)
        write_datafile(directory, "KEY1", datafile)
        assert watcher.wait_for_revision(revision)
        wait_until(lambda: watcher.optimizely.odp_manager.event_manager.is_running)  # type: ignore[union-attr]
        with _plain(datafile) as (side, plain):
            expected, logged_by_plain = side.ask(plain, kind, method)
            answer, logged_by_us = ours.ask(watcher.optimizely, kind, method)
        assert answer == expected
        assert logged_by_us <= logged_by_plain


def test_no_method_is_asked_that_the_sdk_does_not_have() -> None:
    """A user of the oldest SDK that we support has all of these methods, too."""
    assert set(OPTIMIZELY) == _methods(Optimizely)
    assert set(CONTEXT) == _methods(OptimizelyUserContext)
