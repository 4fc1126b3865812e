"""The provider for OpenFeature: every row of the table in docs/openfeature.md, through OpenFeature's own client."""

import asyncio
import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from openfeature import api
from openfeature.client import OpenFeatureClient
from openfeature.evaluation_context import EvaluationContext
from openfeature.exception import ErrorCode
from openfeature.flag_evaluation import FlagEvaluationDetails
from optimizely import entities
from optimizely.event.user_event import ConversionEvent

from datafile_client import OptimizelyOptions, OptimizelyWatcher
from datafile_client.openfeature import OptimizelyProvider
from datafile_client.openfeature._context import scalars_of
from datafile_client.testing import Flags, make_datafile, write_datafile

DOCUMENT = Path(__file__).parents[2] / "docs" / "openfeature.md"
ROWS = {
    case: (value, reason, code)
    for case, value, reason, code in re.findall(
        r"^\| ([^|]+) \| `([^|]+)` \| `(\w+)` \| `?(\w+|–)`? \|$", DOCUMENT.read_text(), re.MULTILINE
    )
}
Details = FlagEvaluationDetails[Any]
DEFAULTS = {"boolean": None, "string": "none", "integer": -1, "float": -1.5, "object": {"none": True}}
VARIABLES = {"text": "hi", "count": 3, "share": 0.5, "loud": True, "style": {"color": "red"}}
EXCLUDE: OptimizelyOptions = {"default_decide_options": ["EXCLUDE_VARIABLES"]}


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is set, and what is asked for."""

    asked: str = "boolean"
    key: str = "it"
    rules: Any = True
    context: Any = field(default_factory=lambda: EvaluationContext("u1"))
    options: OptimizelyOptions | None = None
    change: Callable[[dict[str, Any]], object] = lambda _: None


def _break_value(datafile: dict[str, Any]) -> None:
    datafile["featureFlags"][0]["variables"][0]["defaultValue"] = "three"


def _hold_out(datafile: dict[str, Any]) -> None:
    off = {"id": "h-off", "key": "off", "featureEnabled": False, "variables": []}
    everybody = [{"entityId": "h-off", "endOfRange": 10000}]
    holdout = {"id": "h", "key": "holdout", "status": "Running", "audienceIds": [], "variations": [off]}
    datafile["holdouts"] = [holdout | {"trafficAllocation": everybody, "includedFlags": [], "excludedFlags": []}]


def _pause(datafile: dict[str, Any]) -> None:
    datafile["experiments"][0]["status"] = "Paused"
    datafile["rollouts"][0]["experiments"][0]["variations"][0]["featureEnabled"] = True


def _remove_rules(datafile: dict[str, Any]) -> None:
    datafile["rollouts"][0]["experiments"] = []


HIT = {"variables": {"text": "hit"}}
MISS = {"variables": {"text": "miss"}}
GERMANS = [HIT | {"audience": {"country": "de"}}, MISS]
SPLIT = [{"variation": "a", "percentage": 50}, {"variation": "b", "percentage": 50}]
CASES = {
    "boolean: the flag is on": Case(),
    "boolean: the flag is off for everybody": Case(rules=False),
    "boolean: a boolean variable": Case(rules={"variables": VARIABLES}, key="it.loud"),
    "string: the flag's only text": Case(asked="string", rules={"variables": VARIABLES}),
    "string: a text among several": Case(asked="string", key="it.b", rules={"variables": {"a": "hi", "b": "ho"}}),
    "string: the flag is off": Case(asked="string", rules={"on": False, "variables": VARIABLES}),
    "integer: the flag's only integer": Case(asked="integer", rules={"variables": VARIABLES}),
    "integer: a double without a fraction": Case(asked="integer", rules={"variables": {"size": 10.0}}),
    "float: the flag's only double": Case(asked="float", rules={"variables": VARIABLES}),
    "float: an integer": Case(asked="float", rules={"variables": {"count": 3}}),
    "object: all variables": Case(asked="object", rules={"variables": VARIABLES}),
    "object: a mapping": Case(asked="object", key="it.style", rules={"variables": VARIABLES}),
    "object: a flag without variables": Case(asked="object"),
    "a rule for an audience, and the user is in it": Case(
        asked="string", rules=GERMANS, context=EvaluationContext("u1", {"country": "de"})
    ),
    "a rule for an audience, and the user is not in it": Case(asked="string", rules=GERMANS),
    "a rule for this user": Case(asked="string", rules=[HIT | {"user": "u1"}, MISS]),
    "an A/B test": Case(rules=SPLIT),
    "an A/B test that does not run, and a rule for everybody": Case(rules=SPLIT, change=_pause),
    "a rule for a percentage, and the user is in it": Case(rules={"percentage": 99.9}),
    "a rule for a percentage, and the user is not in it": Case(rules={"percentage": 0.1}),
    "a holdout": Case(change=_hold_out),
    "a flag without rules": Case(change=_remove_rules),
    "no such flag": Case(key="other"),
    "no such variable": Case(asked="string", key="it.other", rules={"variables": VARIABLES}),
    "the flag has no variable of this type": Case(asked="string"),
    "the variable is of another type": Case(asked="string", key="it.count", rules={"variables": VARIABLES}),
    "integer: a double with a fraction": Case(asked="integer", key="it.share", rules={"variables": VARIABLES}),
    "float: an integer that a float can't hold": Case(asked="float", rules={"variables": {"n": 2**53 + 1}}),
    "object: a JSON variable that is a number": Case(
        asked="object",
        key="it.style",
        rules={"variables": VARIABLES},
        change=lambda datafile: datafile["featureFlags"][0]["variables"][4].update(defaultValue="5"),
    ),
    "the flag has several variables of this type": Case(asked="string", rules={"variables": {"a": "hi", "b": "ho"}}),
    "the option EXCLUDE_VARIABLES is set": Case(asked="string", rules={"variables": VARIABLES}, options=EXCLUDE),
    "a value in the datafile that is not of its type": Case(
        asked="integer", rules={"on": False, "variables": {"count": 3}}, change=_break_value
    ),
    "no `targeting_key`": Case(context=None),
    "an empty `targeting_key`": Case(context=EvaluationContext("")),
    "a `targeting_key` that is not a text": Case(context=EvaluationContext(5)),  # type: ignore[arg-type]  # a mistake
    "no datafile yet": Case(rules=None),
}


@pytest.fixture(autouse=True)
def _no_provider_stays() -> Iterator[None]:
    yield
    api.shutdown()


def _client(case: Case, directory: Path) -> OpenFeatureClient:
    if case.rules is not None:
        datafile = json.loads(make_datafile({"it": case.rules}))
        case.change(datafile)
        write_datafile(directory, "KEY1", json.dumps(datafile))
    options: OptimizelyOptions = {"event_processor": _Nowhere()}
    options |= case.options or {}
    watcher = OptimizelyWatcher(sdk_key="KEY1", directory=directory, start_timeout_s=0, optimizely_options=options)
    provider = OptimizelyProvider(watcher)
    if case.rules is None:
        with pytest.raises(Exception, match="No datafile for SDK key 'KEY1'"):
            api.set_provider_and_wait(provider)
    else:
        api.set_provider_and_wait(provider)
    return api.get_client()


class _Nowhere:
    def process(self, _: object) -> None:
        """Let an event vanish."""


def _check(details: Details, row: tuple[str, str, str], default: Any) -> None:
    value, reason, code = row
    expected = default if value == "default" else json.loads(value)
    assert (details.value, type(details.value)) == (expected, type(expected))
    assert details.reason == reason
    assert details.error_code == (None if code == "–" else ErrorCode(code))
    assert bool(details.error_message) is (code != "–")
    assert code == "–" or details.variant is None
    assert details.flag_metadata.get("revision") == (1 if code == "–" else None)


@pytest.mark.parametrize("name", ROWS)
def test_an_answer(name: str, directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A user gets for each case what the documentation says, and no exception."""
    if name == "a holdout" and not hasattr(entities, "Holdout"):
        pytest.skip("this version of Optimizely's SDK knows no holdouts")
    case = CASES[name]
    client = _client(case, directory)
    default = DEFAULTS[case.asked]
    details: Details = getattr(client, f"get_{case.asked}_details")(case.key, default, case.context)
    _check(details, ROWS[name], default)
    in_loop: Details = asyncio.run(getattr(client, f"get_{case.asked}_details_async")(case.key, default, case.context))
    assert in_loop == details
    assert "Unable to correctly evaluate" not in caplog.text


def test_every_case_is_in_the_table() -> None:
    """A user can trust the table: it has every case, and each is tested."""
    assert set(ROWS) == set(CASES)
    assert {code for _, _, code in ROWS.values()} - {"–", "PROVIDER_FATAL"} == set(ErrorCode) - {"PROVIDER_FATAL"}


def test_a_decision_says_how_it_came_about() -> None:
    """A user who logs an evaluation sees revision, rule and variation, all of the same datafile."""
    with Flags() as flags:
        flags.set("checkout", variation="blue", audience={"country": "de"})
        api.set_provider_and_wait(OptimizelyProvider(flags.watcher))
        client = api.get_client()
        details = client.get_boolean_details("checkout", False, EvaluationContext("u1", {"country": "de"}))
        assert (details.variant, details.flag_metadata) == ("blue", {"revision": 2, "rule_key": "checkout-delivery-1"})
        assert api.get_provider_metadata().name == "Optimizely (datafile-client)"
        refused = client.get_string_details("checkout", "", EvaluationContext("u1"))
        assert refused.error_message == "The flag 'checkout' has no variable of type string"


def test_attributes_reach_the_audiences() -> None:
    """A user's rules for texts, numbers and moments match what the app passes; what Optimizely can't use does no harm."""
    import datetime

    moment = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
    attributes = {"country": "de", "age": 18, "score": 0.5, "beta": True, "since": moment}
    useless = {"list": ["de"], "map": {"a": 1}, "infinite": float("inf"), "none": None}
    with Flags() as flags:
        flags.set("checkout", audience=attributes | {"since": "2026-01-02T00:00:00+00:00"})
        api.set_provider_and_wait(OptimizelyProvider(flags.watcher))
        client = api.get_client()
        context: Any = attributes | useless
        assert client.get_boolean_value("checkout", False, EvaluationContext("u1", context))
        assert scalars_of(useless) == {}
        for name in attributes:
            other = {key: value for key, value in context.items() if key != name}
            assert not client.get_boolean_value("checkout", False, EvaluationContext("u1", other))


def test_a_provider_that_is_asked_by_another_one_gives_the_default_itself() -> None:
    """A user of several providers gets an answer, not an exception, also where nobody has looked at the context before."""
    with Flags() as flags:
        flags.set("it")
        provider = OptimizelyProvider(flags.watcher)
        assert provider.resolve_boolean_details("it", False, EvaluationContext("u1")).value is True
        for context in (EvaluationContext(""), EvaluationContext(), None):
            details = provider.resolve_boolean_details("it", False, context)
            assert (details.value, details.reason, details.error_code) == (False, "ERROR", "TARGETING_KEY_MISSING")


@pytest.mark.parametrize("prefix", ["", "it."])
def test_an_unknown_key_is_shown_in_part(prefix: str) -> None:
    """A user whose app takes keys from requests does not write a megabyte to a log for each."""
    with Flags() as flags:
        flags.set("it")
        provider = OptimizelyProvider(flags.watcher)
        details = provider.resolve_boolean_details(
            f"{prefix}new\nline" + 1_000_000 * "x", False, EvaluationContext("u1")
        )
        assert details.error_code is ErrorCode.FLAG_NOT_FOUND
        assert details.error_message is not None
        assert len(details.error_message) < 250
        assert "new\\nlinexx" in details.error_message


def test_a_flag_with_a_dot_comes_before_a_variable() -> None:
    """A user whose flag has a dot in its key gets the flag."""
    with Flags() as flags:
        flags.set("it", variables={"b": False})
        api.set_provider_and_wait(OptimizelyProvider(flags.watcher))
        client = api.get_client()
        assert client.get_boolean_value("it.b", True, EvaluationContext("u1")) is False
        flags.set("it.b")
        assert client.get_boolean_value("it.b", False, EvaluationContext("u1")) is True


class _Profiles:
    """A user profile service that asks a server, which answers when it is told to."""

    def __init__(self) -> None:
        self.threads: list[int] = []
        self.may_answer = threading.Event()

    def lookup(self, user_id: str) -> dict[str, Any]:
        self.threads.append(threading.get_ident())
        assert self.may_answer.wait(20)
        return {"user_id": user_id, "experiment_bucket_map": {}}

    def save(self, _: Any) -> None:
        """Save nothing."""


async def test_a_decision_that_waits_leaves_the_loop_free() -> None:
    """A user of asyncio whose profiles are on a server serves other requests meanwhile."""
    profiles = _Profiles()
    with Flags(optimizely_options={"user_profile_service": profiles}) as flags:
        flags.set("it", variation="a", percentage=50)
        flags.set("it", variation="b", percentage=50)
        api.set_provider_and_wait(OptimizelyProvider(flags.watcher))
        decision = asyncio.create_task(api.get_client().get_boolean_value_async("it", False, EvaluationContext("u1")))
        while not profiles.threads:
            await asyncio.sleep(0.001)
        profiles.may_answer.set()
        assert await decision
        assert threading.get_ident() not in profiles.threads


class _Cmab:
    def __init__(self) -> None:
        self.threads: list[int] = []

    def get_decision(self, *_: object) -> tuple[Any, list[str]]:
        from optimizely.cmab.cmab_service import CmabDecision

        self.threads.append(threading.get_ident())
        return CmabDecision(variation_id="v1-1-1", cmab_uuid="uuid"), []


async def test_a_bandit_is_asked_in_a_thread(directory: Path) -> None:
    """A user of asyncio with a contextual bandit does not stop the loop for a question to Optimizely."""
    cmab = _Cmab()

    def add_bandit(datafile: dict[str, Any]) -> None:
        bandit = {"attributeIds": [], "trafficAllocation": 10000}
        datafile["experiments"][0]["cmab"] = bandit

    client = _client(Case(rules=SPLIT, change=add_bandit, options={"cmab_service": cmab}), directory)
    details = await client.get_boolean_details_async("it", False, EvaluationContext("u1"))
    assert (details.value, details.reason) == (True, "SPLIT")
    assert cmab.threads
    assert threading.get_ident() not in cmab.threads
    client.get_boolean_value("it", False, EvaluationContext("u1"))
    assert cmab.threads[-1] == threading.get_ident()


def test_an_event_is_tracked_with_its_value_and_attributes(caplog: pytest.LogCaptureFixture) -> None:
    """A user measures an experiment by OpenFeature's track."""
    from openfeature.track import TrackingEventDetails

    with Flags() as flags:
        flags.accept_events("bought")
        api.set_provider_and_wait(OptimizelyProvider(flags.watcher))
        client = api.get_client()
        details = TrackingEventDetails(9.5, {"revenue": 950, "color": "red", "list": [1]})
        client.track("bought", EvaluationContext("u1", {"country": "de"}), details)
        client.track("bought", EvaluationContext("u2"))
        client.track("bought")
        client.track("unknown", EvaluationContext("u1"))
    events = [event for event in flags.events if isinstance(event, ConversionEvent)]
    assert [(event.user_id, event.event_tags) for event in events] == [
        ("u1", {"value": 9.5, "revenue": 950, "color": "red"}),
        ("u2", {}),
    ]
    assert "An event was not tracked: Optimizely decides by the user's id" in caplog.text
