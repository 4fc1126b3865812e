"""The cases of the OpenFeature specification that concern a provider, with flags of Optimizely that mean the same.

The names of flags and the values are those of the specification's Gherkin suites: evaluation, errors, reasons, metadata, hooks,
events, life cycle and tracking. `docs/openfeature.md` says where the provider differs from them, and so do the tests at the end.
"""

import datetime
from collections.abc import Iterator
from typing import Any

import pytest
from openfeature import api
from openfeature.client import OpenFeatureClient
from openfeature.evaluation_context import EvaluationContext
from openfeature.event import EventDetails, ProviderEvent
from openfeature.exception import GeneralError
from openfeature.flag_evaluation import FlagEvaluationDetails, FlagEvaluationOptions
from openfeature.hook import Hook, HookContext

from datafile_client.openfeature import OptimizelyProvider
from datafile_client.testing import Flags
from tests.client.conftest import MakeWatcher
from tests.client.helpers import wait_until

Details = FlagEvaluationDetails[Any]
PICTURES = {"showImages": True, "title": "Check out these pics!", "imagesPerPage": 100}
TARGET = "5c3d8535-f81a-4478-a6d3-afaa4d51199e"
OTHER = "f20bd32d-703b-48b6-bc8e-79d53c85134a"
MATCH = {"email": "ballmer@macrosoft.com"}
# key → variation, value; a boolean is whether the flag is on, an object all of its variables.
STATIC: dict[str, tuple[str, Any]] = {
    "boolean-flag": ("on", True),
    "string-flag": ("greeting", "hi"),
    "integer-flag": ("ten", 10),
    "float-flag": ("half", 0.5),
    "object-flag": ("template", PICTURES),
    "large-integer-flag": ("max-int32", 2147483647),
    "huge-integer-flag": ("max-safe", 9007199254740991),
    "integral-float-flag": ("ten", 10.0),
    "integer-zero-flag": ("zero", 0),
    "string-zero-flag": ("zero", ""),
    "float-zero-flag": ("zero", 0.0),
    "object-zero-flag": ("zero", {}),
    "wrong-flag": ("one", "uno"),
    "metadata-flag": ("on", True),
}
TARGETED: dict[str, Any] = {"string": "", "integer": 0, "float": 0.0, "object": {}}


@pytest.fixture
def flags() -> Iterator[Flags]:
    """Set the specification's flags, and a provider that is stable."""
    with Flags() as flags:
        for key, (variation, value) in STATIC.items():
            flags.set(key, variation=variation, variables=variables(value))
        flags.set("boolean-zero-flag", on=False, variation="zero")
        flags.set("boolean-targeted-zero-flag", on=False, variation="zero", audience=MATCH)
        flags.set("boolean-targeted-zero-flag", on=False, variation="zero")
        for kind, value in TARGETED.items():
            flags.set(f"{kind}-targeted-zero-flag", variation="zero", variables=variables(value), audience=MATCH)
            flags.set(f"{kind}-targeted-zero-flag", variation="zero", variables=variables(value))
        flags.set("context-aware", variation="internal", variables={"it": "INTERNAL"}, audience={"customer": False})
        flags.set("context-aware", variation="external", variables={"it": "EXTERNAL"})
        flags.set("targeting-key-flag", variation="hit", variables={"it": "hit"}, user=TARGET)
        flags.set("targeting-key-flag", variation="miss", variables={"it": "miss"})
        flags.set("changing-flag", variation="foo", variables={"it": "foo"})
        api.set_provider_and_wait(OptimizelyProvider(flags.watcher))
        api.set_evaluation_context(EvaluationContext("anybody"))
        yield flags
        api.shutdown()


def variables(value: Any) -> dict[str, Any]:
    """Return the variables of a flag that stands for this value."""
    if isinstance(value, bool):
        return {}
    return dict(value) if isinstance(value, dict) else {"it": value}


def evaluate(kind: str, key: str, default: Any, context: EvaluationContext | None = None, **options: Any) -> Details:
    """Evaluate a flag with details, by a new client."""
    details: Details = getattr(api.get_client(), f"get_{kind.lower()}_details")(key, default, context, **options)
    return details


def is_normal(details: Details) -> bool:
    """Tell whether nothing speaks of an error."""
    return details.error_code is None and not details.error_message


VALUES = [
    ("Boolean", "boolean-flag", False, True, "on"),
    ("String", "string-flag", "bye", "hi", "greeting"),
    ("Integer", "integer-flag", 1, 10, "ten"),
    ("Float", "float-flag", 0.1, 0.5, "half"),
    ("Object", "object-flag", {}, PICTURES, "template"),
    ("Integer", "integer-zero-flag", 1, 0, "zero"),
    ("String", "string-zero-flag", "fallback", "", "zero"),
    ("Float", "float-zero-flag", 0.1, 0.0, "zero"),
    ("Integer", "large-integer-flag", 1, 2147483647, "max-int32"),
    ("Integer", "huge-integer-flag", 1, 9007199254740991, "max-safe"),
    ("Integer", "integral-float-flag", 1, 10, "ten"),
    ("Float", "integral-float-flag", 0.1, 10.0, "ten"),
]


@pytest.mark.usefixtures("flags")
@pytest.mark.parametrize(("kind", "key", "default", "value", "variant"), VALUES)
async def test_a_value_with_variant_and_reason(kind: str, key: str, default: Any, value: Any, variant: str) -> None:
    """A user gets the flag's value, in its type, falsy ones too; the answer in a loop is the same."""
    details = evaluate(kind, key, default)
    assert (details.value, type(details.value)) == (value, type(value))
    assert (details.flag_key, details.variant, details.reason) == (key, variant, "STATIC")
    assert is_normal(details)
    assert await getattr(api.get_client(), f"get_{kind.lower()}_details_async")(key, default) == details


@pytest.mark.usefixtures("flags")
@pytest.mark.parametrize("kind", [*TARGETED, "boolean"])
def test_a_zero_value_for_an_audience(kind: str) -> None:
    """A user in the audience gets a zero that was meant for them; another one, and one without attributes, the one for the rest."""
    defaults: dict[str, Any] = {"boolean": True, "string": "hi", "integer": 1, "float": 0.1, "object": {"a": 1}}
    value = False if kind == "boolean" else variables(TARGETED[kind]) if kind == "object" else TARGETED[kind]
    attributes: list[tuple[dict[str, Any], str]] = [
        (MATCH, "TARGETING_MATCH"),
        ({"email": "ballmer@none.com"}, "DEFAULT"),
        ({"email": None}, "DEFAULT"),
        ({}, "DEFAULT"),
    ]
    for given, reason in attributes:
        details = evaluate(kind, f"{kind}-targeted-zero-flag", defaults[kind], EvaluationContext("u", given))
        assert (details.value, details.reason, details.variant) == (value, reason, "zero")
        assert is_normal(details)


@pytest.mark.usefixtures("flags")
def test_several_attributes() -> None:
    """A user's rule looks at one of many attributes."""
    attributes: dict[str, Any] = {"email": "ballmer@macrosoft.com", "role": "admin", "age": 65, "customer": False}
    details = evaluate("String", "context-aware", "false", EvaluationContext("u", attributes))
    assert (details.value, details.reason) == ("INTERNAL", "TARGETING_MATCH")


@pytest.mark.usefixtures("flags")
def test_the_targeting_key_is_the_user() -> None:
    """A user with a rule of their own gets what it says; with another key, what is for the rest."""
    hit = evaluate("String", "targeting-key-flag", "fallback", EvaluationContext(TARGET))
    miss = evaluate("String", "targeting-key-flag", "fallback", EvaluationContext(OTHER))
    assert (hit.value, hit.reason, hit.variant) == ("hit", "TARGETING_MATCH", "hit")
    assert (miss.value, miss.reason, miss.variant) == ("miss", "DEFAULT", "miss")
    untargeted = evaluate("String", "string-flag", "bye", EvaluationContext(OTHER))
    assert (untargeted.value, is_normal(untargeted)) == ("hi", True)


MISMATCHES = [
    ("String", "boolean-flag", "fallback"),
    ("Integer", "boolean-flag", 1),
    ("Float", "boolean-flag", 0.1),
    ("Integer", "string-flag", 1),
    ("Float", "string-flag", 0.1),
    ("String", "integer-flag", "fallback"),
    ("String", "float-flag", "fallback"),
    ("Integer", "float-flag", 1),
    ("Integer", "wrong-flag", 13),
]
MISSING = [("Boolean", False), ("String", "bye"), ("Integer", 1), ("Float", 0.1), ("Object", {"a": 1})]
ERRORS = [
    *((kind, key, default, "TYPE_MISMATCH") for kind, key, default in MISMATCHES),
    *((kind, "missing-flag", default, "FLAG_NOT_FOUND") for kind, default in MISSING),
]


@pytest.mark.usefixtures("flags")
@pytest.mark.parametrize(("kind", "key", "default", "code"), ERRORS)
async def test_an_error_gives_the_default(kind: str, key: str, default: Any, code: str) -> None:
    """A user who asks for what is not there gets their default and a reason, and no exception."""
    details = evaluate(kind, key, default)
    assert (details.value, details.reason, details.error_code, details.variant) == (default, "ERROR", code, None)
    assert details.error_message
    in_loop = await getattr(api.get_client(), f"get_{kind.lower()}_details_async")(key, default)
    assert in_loop == details


def test_a_provider_that_is_not_ready_gives_the_default(make_watcher: MakeWatcher) -> None:
    """A user gets their default while the provider is being initialized, and nothing is thrown."""
    api.set_provider(OptimizelyProvider(make_watcher(start_timeout_s=60)))
    for kind, default in MISSING:
        details = evaluate(kind, "a-flag", default)
        assert (details.value, details.reason, details.error_code) == (default, "ERROR", "PROVIDER_NOT_READY")
    api.shutdown()


@pytest.mark.usefixtures("flags")
def test_metadata_is_plain_and_a_copy() -> None:
    """A user finds the revision and the rule, as plain values, and can't change what the next one gets."""
    first = evaluate("Boolean", "metadata-flag", False)
    assert {name: type(value) for name, value in first.flag_metadata.items()} == {"revision": int, "rule_key": str}
    assert isinstance(first.flag_metadata, dict)
    first.flag_metadata.clear()
    changed: Any = evaluate("Object", "object-flag", {}).value
    changed.clear()
    assert evaluate("Boolean", "metadata-flag", False).flag_metadata["rule_key"] == "metadata-flag-everybody"
    assert evaluate("Object", "object-flag", {}).value == PICTURES


class _Hook(Hook):
    def __init__(self) -> None:
        self.stages: list[str] = []
        self.details: Details | None = None

    def before(self, hook_context: HookContext, hints: Any) -> None:
        assert hook_context.provider_metadata is not None
        self.stages.append(f"before {hook_context.provider_metadata.name}")

    def after(self, hook_context: HookContext, details: Details, hints: Any) -> None:
        self.stages.append("after")

    def error(self, hook_context: HookContext, exception: Exception, hints: Any) -> None:
        self.stages.append("error")

    def finally_after(self, hook_context: HookContext, details: Details, hints: Any) -> None:
        self.stages.append("finally")
        self.details = details


HOOKED = [
    ("Boolean", "boolean-flag", False, "after", ("boolean-flag", True, "on", "STATIC", None)),
    ("String", "missing-flag", "uh-oh", "error", ("missing-flag", "uh-oh", None, "ERROR", "FLAG_NOT_FOUND")),
    ("Integer", "wrong-flag", 13, "error", ("wrong-flag", 13, None, "ERROR", "TYPE_MISMATCH")),
]


@pytest.mark.usefixtures("flags")
@pytest.mark.parametrize(("kind", "key", "default", "stage", "expected"), HOOKED)
def test_hooks_get_the_evaluation_details(kind: str, key: str, default: Any, stage: str, expected: Any) -> None:
    """A user's hooks see each evaluation as it ended, with an error or without."""
    hook = _Hook()
    evaluate(kind, key, default, flag_evaluation_options=FlagEvaluationOptions(hooks=[hook]))
    assert hook.stages == ["before Optimizely (datafile-client)", stage, "finally"]
    details = hook.details
    assert details is not None
    assert (details.flag_key, details.value, details.variant, details.reason, details.error_code) == expected


def test_a_change_is_announced_and_applied(flags: Flags) -> None:
    """A user hears which flag has changed, and gets its new value."""
    heard: list[EventDetails] = []
    api.add_handler(ProviderEvent.PROVIDER_CONFIGURATION_CHANGED, heard.append)
    assert evaluate("String", "changing-flag", "unset").value == "foo"
    flags.set("changing-flag", variation="bar", variables={"it": "bar"})
    wait_until(lambda: heard)
    assert heard[0].flags_changed == ["changing-flag"]
    assert evaluate("String", "changing-flag", "unset").value == "bar"


@pytest.mark.parametrize("name", ["", None, 5])
def test_an_event_without_a_name_is_an_error(flags: Flags, name: Any) -> None:
    """A user's slip is told, and tracks nothing."""
    client: OpenFeatureClient = api.get_client()
    with pytest.raises(GeneralError):
        client.track(name)
    assert flags.events == []


def test_an_event_is_tracked(flags: Flags) -> None:
    """A user's event reaches Optimizely's queue."""
    flags.accept_events("the-event")
    api.get_client().track("the-event")
    (event,) = flags.events
    assert event.user_id == "anybody"


@pytest.mark.usefixtures("flags")
def test_the_context_is_left_as_it_was() -> None:
    """A user's context is not changed by an evaluation."""
    attributes: dict[str, Any] = {"since": datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC), "list": [1]}
    context = EvaluationContext("u", attributes)
    evaluate("Boolean", "boolean-flag", False, context)
    assert context == EvaluationContext("u", dict(attributes))


# Where the provider differs from the specification's cases.


@pytest.mark.usefixtures("flags")
@pytest.mark.parametrize("key", ["string-flag", "integer-flag", "float-flag", "object-flag", "wrong-flag"])
def test_differs_every_flag_is_on_or_off(key: str) -> None:
    """A user who asks for a boolean learns whether the flag is on, whatever variables it has."""
    details = evaluate("Boolean", key, False)
    assert (details.value, details.error_code) == (True, None)


@pytest.mark.usefixtures("flags")
def test_differs_every_flag_is_an_object_of_its_variables() -> None:
    """A user who asks for an object gets all variables, also if there is only one."""
    assert evaluate("Object", "string-flag", {}).value == {"it": "hi"}


@pytest.mark.usefixtures("flags")
def test_differs_a_flag_that_is_off_for_everybody_is_disabled() -> None:
    """A user sees that a flag is off in this environment; the datafile does not say more."""
    details = evaluate("Boolean", "boolean-zero-flag", True)
    assert (details.value, details.variant, details.reason) == (False, "zero", "DISABLED")


@pytest.mark.usefixtures("flags")
def test_differs_without_a_user_there_is_no_decision() -> None:
    """A user who forgets the targeting key is told so."""
    api.set_evaluation_context(EvaluationContext())
    details = evaluate("String", "targeting-key-flag", "fallback")
    assert (details.value, details.error_code) == ("fallback", "TARGETING_KEY_MISSING")
