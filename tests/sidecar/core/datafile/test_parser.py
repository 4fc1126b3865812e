"""Validation against the real SDK: nothing is published that it refuses, and nothing held back that it takes."""

import copy
import functools
import hashlib
import json
import re
import tracemalloc
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optimizely import version as sdk_version
from optimizely.helpers.sdk_settings import OptimizelySdkSettings
from optimizely.logger import NoOpLogger
from optimizely.optimizely import Optimizely

from datafile_sidecar.core.datafile import MAX_BYTES, InvalidDatafileError, parse
from tests.datafiles import HOSTILE, hostile, minimal, realistic

# Derandomized: the same examples on each run, so that a red build is never a matter of luck.
MANY = settings(max_examples=400, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))

BASE: dict[str, Any] = json.loads(realistic(18, 43))
EMPTY: dict[str, Any] = json.loads(minimal(43))
ABSENT = object()

FLAG = {"id": "1", "key": "f", "experimentIds": [], "rolloutId": "", "variables": []}
EXPERIMENT = {
    "id": "e1",
    "key": "e",
    "layerId": "l",
    "status": "Running",
    "variations": [{"id": "v1", "key": "v"}],
    "trafficAllocation": [],
    "audienceIds": [],
    "forcedVariations": {},
}
QUALIFIED_LIST = {"match": "qualified", "name": "odp", "type": "third_party_dimension", "value": ["a"]}
HOLDOUT = {"id": "h", "key": "h", "status": "Running", "variations": [], "trafficAllocation": [], "audienceIds": []}
AUDIENCE = {"id": "a", "name": "A", "conditions": []}


def test_a_good_datafile_comes_back_as_served() -> None:
    """The app reads the very bytes that Optimizely served, with the digest by which it knows them."""
    body = realistic(10, 43)
    datafile = parse(body, "KEY1")
    assert datafile.body is body
    assert (datafile.revision, datafile.project_id, datafile.size) == (43, "1234", len(body))
    assert datafile.sha256 == hashlib.sha256(body).hexdigest()
    assert "feature_0" not in repr(datafile)


@pytest.mark.parametrize("size_kib", [1, 30, 300])
def test_the_datafiles_of_these_tests_are_real_ones(size_kib: int) -> None:
    """The SDK takes what our tests are made of, so that green tests mean something."""
    body = realistic(size_kib, 43)
    assert len(body) >= size_kib * 1024
    assert sdk_takes(body)
    assert parse(body, "KEY1").revision == 43


@pytest.mark.parametrize(
    "change",
    [
        {"version": "2"},
        {"version": "3"},
        {"sdkKey": ABSENT},
        {"sdkKey": None},
        {"sdkKey": ""},
        {"revision": "0"},
        {"revision": "007"},
        {"revision": "999999999999999"},
        {"anInventionOfTomorrow": {"deep": [{"er": None}]}},
        {"featureFlags": ABSENT, "rollouts": ABSENT, "typedAudiences": ABSENT, "integrations": ABSENT},
        {"holdouts": ABSENT, "localHoldouts": ABSENT},
        {"region": None, "botFiltering": 5, "anonymizeIP": "perhaps", "environmentKey": []},
        {"featureFlags": [{"id": 7, "key": None, "experimentIds": [], "rolloutId": "", "variables": []}]},
        {"localHoldouts": [{}, {"includedRules": None}]},
        {"experiments": [EXPERIMENT | {"audienceConditions": ["or", None, "1"]}]},
        {"experiments": [EXPERIMENT | {"audienceConditions": ["a"]}], "typedAudiences": [AUDIENCE | {"name": None}]},
        {"experiments": [EXPERIMENT | {"audienceConditions": ["b"]}], "typedAudiences": [AUDIENCE | {"name": 5}]},
    ],
    ids=lambda change: ",".join(change),
)
def test_what_the_sdk_takes_is_taken(change: dict[str, Any]) -> None:
    """A flag flip gets through, however odd or old or new the rest of the datafile is."""
    body = with_change(EMPTY, change)
    assert sdk_takes(body)
    parse(body, "KEY1")


def test_text_beyond_ascii_is_taken() -> None:
    """A datafile may be written in any language, plainly or escaped."""
    for name in ("Ключ 鍵 \U0001f511", "\\u041a\\ud83d\\udd11", 'tab\\t quote\\" brackets ]]}}'):
        body = minimal(43).replace(b'"variables":[]', b'"variables":[],"note":"' + name.encode() + b'"')
        assert sdk_takes(body)
        parse(body, "KEY1")


def without(entry: dict[str, Any], key: str) -> dict[str, Any]:
    """The entry without one of its keys."""
    return {name: value for name, value in entry.items() if name != key}


SILENTLY_NO_CONFIG: list[tuple[dict[str, Any], str]] = [
    ({"version": "5"}, "version: '5' is not supported, only 2, 3 and 4 are"),
    ({"version": "5", "experiments": ABSENT}, "version: '5' is not supported, only 2, 3 and 4 are"),
    ({"version": 4}, "version: expected a string, got a number"),
    ({"version": ABSENT}, "version: missing"),
    ({"revision": 43}, "revision: expected a string, got a number"),
    ({"revision": ABSENT}, "revision: missing"),
    ({"projectId": ABSENT}, "projectId: missing"),
    ({"accountId": None}, "accountId: expected a string, got null"),
    ({"featureFlags": None}, "featureFlags: expected a list, got null"),
    ({"featureFlags": [without(FLAG, "key")]}, "featureFlags[0].key: missing"),
    ({"featureFlags": [FLAG, {**FLAG, "variables": None}]}, "featureFlags[1].variables: expected a list, got null"),
    ({"featureFlags": [{**FLAG, "key": ["f"]}]}, "featureFlags[0].key: expected a plain value, got a list"),
    ({"featureFlags": [{**FLAG, "rolloutId": "r9"}]}, "featureFlags[0].rolloutId: no rollout has the id 'r9'"),
    (
        {"featureFlags": [{**FLAG, "experimentIds": ["e9"]}]},
        "featureFlags[0].experimentIds[0]: no experiment has the id 'e9'",
    ),
    (
        {"featureFlags": [{**FLAG, "variables": [{"id": "1", "key": "v", "type": "string"}]}]},
        "featureFlags[0].variables[0].defaultValue: missing",
    ),
    ({"featureFlags": [{**FLAG, "self": 1}]}, "featureFlags[0].self: a name that the SDK cannot take"),
    ({"experiments": [without(EXPERIMENT, "layerId")]}, "experiments[0].layerId: missing"),
    (
        {"experiments": [{**EXPERIMENT, "trafficAllocation": [{"entityId": "v1", "endOfRange": 1.5}]}]},
        "experiments[0].trafficAllocation[0].endOfRange: expected a whole number, got a number",
    ),
    (
        {"experiments": [{**EXPERIMENT, "audienceConditions": [["or", "1"]]}]},
        "experiments[0].audienceConditions: a list that is alone in its list",
    ),
    (
        {"experiments": [{**EXPERIMENT, "audienceConditions": ["or", {"id": "1"}]}]},
        "experiments[0].audienceConditions: an object where an audience id belongs",
    ),
    (
        {
            "experiments": [EXPERIMENT | {"audienceConditions": ["or", "a", "b"]}],
            "typedAudiences": [AUDIENCE | {"name": 5}],
        },
        "experiments[0].audienceConditions: no audience can be called 'a'",
    ),
    (
        {"experiments": [{**EXPERIMENT, "audienceConditions": 7}]},
        "experiments[0].audienceConditions: neither a list nor null",
    ),
    (
        {
            "experiments": [
                {**EXPERIMENT, "variations": [{"id": "v1", "key": "v", "featureEnabled": True, "variables": None}]}
            ],
            "featureFlags": [{**FLAG, "experimentIds": ["e1"]}],
        },
        "experiments[0].variations[0].variables: null in an enabled variation",
    ),
    ({"rollouts": None}, "rollouts: expected a list, got null"),
    (
        {"rollouts": [{"id": "r", "experiments": [without(EXPERIMENT, "status")]}]},
        "rollouts[0].experiments[0].status: missing",
    ),
    (
        {"groups": [{"id": "g", "policy": "random", "trafficAllocation": [], "experiments": [{}]}]},
        "groups[0].experiments[0].id: missing",
    ),
    ({"typedAudiences": [{"id": "a", "name": "A"}]}, "typedAudiences[0].conditions: missing"),
    (
        {"typedAudiences": [{"id": "a", "name": "A", "conditions": ["or", QUALIFIED_LIST]}]},
        "typedAudiences[0].conditions: the segment of a qualified condition is a list",
    ),
    ({"audiences": [{"id": "a", "name": "A", "conditions": "[or"}]}, "audiences[0].conditions: not strict JSON"),
    (
        {"audiences": [{"id": "a", "name": "A", "conditions": []}]},
        "audiences[0].conditions: expected a string, got a list",
    ),
    ({"integrations": [{"key": "odp", "host": None}]}, "integrations[0].host: expected a string, got null"),
    ({"holdouts": None}, "holdouts: expected a list, got null"),
    ({"sdkKey": 5}, "sdkKey: expected a string or null, got a number"),
]


@pytest.mark.parametrize(("change", "reason"), SILENTLY_NO_CONFIG, ids=[reason for _, reason in SILENTLY_NO_CONFIG])
def test_what_the_sdk_ignores_without_a_word_is_refused_by_name(change: dict[str, Any], reason: str) -> None:
    """Where an app would silently turn all flags off, the last good file stays and somebody reads which place is bad."""
    body = with_change(EMPTY, change)
    if change != {"sdkKey": 5}:
        assert not sdk_takes(body)
    assert reason_against(body) == reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"holdouts": [without(HOLDOUT, "trafficAllocation")]}, "holdouts[0].trafficAllocation: missing"),
        ({"localHoldouts": [{}, {"includedRules": ["r"], "id": "h"}]}, "localHoldouts[1].key: missing"),
        ({"holdouts": [{**HOLDOUT, "includedFlags": 5}]}, "holdouts[0].includedFlags: not a list of plain values"),
        ({"holdouts": [{**HOLDOUT, "excludedFlags": None}]}, "holdouts[0].excludedFlags: not a list of plain values"),
        (
            {"localHoldouts": [{**HOLDOUT, "includedRules": ["r", ["r"]]}]},
            "localHoldouts[0].includedRules: not a list of plain values",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_holdouts_must_suit_old_and_new_sdks(change: dict[str, Any], reason: str) -> None:
    """Apps on the oldest and on the newest supported SDK can share one sidecar."""
    assert reason_against(with_change(EMPTY, change)) == reason


STRICTER: list[tuple[bytes, str]] = [
    (b"", "empty"),
    (b"   \n", "empty"),
    (b"null", "not a JSON object"),
    (b"[]", "not a JSON object"),
    (b'"x"', "not a JSON object"),
    (b"<html>Sign in</html>", "not a JSON object"),
    (b"{}", "version: missing"),
    (b"\xef\xbb\xbf" + minimal(43), "starts with a byte order mark"),
    (minimal(43).decode().encode("utf-16"), "starts with a byte order mark"),
    (minimal(43).decode().encode("utf-16-be"), "not a JSON object"),
    (
        minimal(43).decode().encode("utf-16-le"),
        "not strict JSON (JSON is malformed: object keys must be strings (byte 1))",
    ),
    (minimal(43, "KEY2"), "sdkKey: 'KEY2' is another key's, expected 'KEY1'"),
    (minimal(43).replace(b'"43"', b'"4x"'), "revision: '4x' is not a decimal number of 1 to 15 digits"),
    (minimal(43).replace(b'"43"', b'"+43"'), "revision: '+43' is not a decimal number of 1 to 15 digits"),
    (
        minimal(43).replace(b'"43"', b'"' + b"4" * 16 + b'"'),
        f"revision: '{'4' * 16}' is not a decimal number of 1 to 15 digits",
    ),
    (
        minimal(43).replace(b'"43"', '"٤٣"'.encode()),
        "revision: '\\u0664\\u0663' is not a decimal number of 1 to 15 digits",
    ),
    (minimal(43).replace(b'"region":"US"', b'"region":"\xff"'), "not UTF-8"),
    (minimal(43).replace(b'"region":"US"', b'"region":"\xed\xa0\x80"'), "not UTF-8"),
    (minimal(43).replace(b'"US"', b"9" * 5000), "a number with more than 4300 digits"),
    (minimal(43).replace(b'"US"', b"[" * 98 + b"{}" + b"]" * 98), ""),
    (minimal(43).replace(b'"US"', b"[" * 99 + b"{}" + b"]" * 99), "nested more than 100 deep"),
    (b'{"a":' * 100_000, "nested more than 100 deep"),
    (b"[" * 100_000 + b"]" * 100_000, "not a JSON object"),
    (minimal(43) + b" " * MAX_BYTES, "larger than 8388608 bytes"),
]


@pytest.mark.parametrize(("body", "reason"), STRICTER, ids=[f"{i}-{reason}" for i, (_, reason) in enumerate(STRICTER)])
def test_garbage_and_other_keys_are_refused_with_a_reason(body: bytes, reason: str) -> None:
    """A captive portal, a wrong key or a broken encoding leaves the last good file in place, and says what came."""
    assert reason_against(body) == reason


# Texts that look like the end of a string, or like nesting, to a reader that does not keep strings and escapes apart.
TEXTS = [
    "[" * 200,
    "{" * 200,
    "]" * 200,
    '"',
    '"' + "[" * 200,
    "\\",
    "\\\\",
    '\\"' + "{" * 200,
    "\n",
    "a,b",
    "[" * 70_000,
]


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: ascii(text[:5]))
def test_brackets_in_texts_are_no_nesting(text: str) -> None:
    """What a team writes into names and variables, code and JSON included, never blocks its datafile."""
    body = with_change(EMPTY, {"note": [text, [text, "x", text]], "more": {text: text}})
    assert sdk_takes(body)
    parse(body, "KEY1")


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: ascii(text[:5]))
def test_nesting_is_found_between_texts(text: str) -> None:
    """A datafile that would exhaust some app's stack is refused, whatever texts hide its depth."""
    tree: list[Any] = []
    for _ in range(99):
        tree = [text, tree] if len(text) < 1000 else [tree]
    assert reason_against(with_change(EMPTY, {"note": text, "tree": tree})) == "nested more than 100 deep"
    assert reason_against(with_change(EMPTY, {"note": text, "tree": tree[-1]})) == ""


@pytest.mark.parametrize(
    "cut",
    [b"NaN", b"Infinity", b"-Infinity", b"01", b'"\\ud800"', b'"\\x"', b'"\t"', b"tru", b"[1,]", b"{1:2}", b"'a'"],
)
def test_only_strict_json_is_taken(cut: bytes) -> None:
    """Readers in every language can parse what is on the volume."""
    reason = reason_against(minimal(43).replace(b'"US"', cut))
    assert reason.startswith("not strict JSON (")


@pytest.mark.parametrize("cut", [1, 2, 50, 200])
def test_a_cut_datafile_is_refused(cut: int) -> None:
    """A transfer that stopped early never reaches the app."""
    assert reason_against(minimal(43)[:-cut]).startswith("not strict JSON")


def test_the_error_is_a_sentence() -> None:
    """What is shown in the log and on the status page can be read by a person, however long the hostile text is."""
    body = with_change(EMPTY, {"version": "\x1b[31m" + "9" * 5000})
    with pytest.raises(InvalidDatafileError) as caught:
        parse(body, "KEY1")
    assert str(caught.value) == f"The datafile is not usable: {caught.value.reason}."
    assert len(str(caught.value)) < 200
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_body_costs_no_multiple_of_its_size(name: str) -> None:
    """Eight megabytes of garbage can't get the sidecar killed for its memory, nor reach the app."""
    body = hostile(name, MAX_BYTES)
    tracemalloc.start()
    try:
        reason = reason_against(body)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * MAX_BYTES
    assert bool(reason) == (name not in ("backslashes", "escaped quotes"))


# From here on: our verdict against the real SDK's, for datafiles with a few faults each.


def sdk_takes(body: bytes) -> bool:
    """Whether the real SDK has a config after it was given these bytes; some datafiles make it raise."""
    try:
        instance = Optimizely(
            body,  # type: ignore[arg-type]
            logger=NoOpLogger(),
            settings=OptimizelySdkSettings(odp_disabled=True),
            event_processor_options={"start_on_init": False},
        )
    except Exception:
        return False
    return instance.config_manager.get_config() is not None


def reason_against(body: bytes, sdk_key: str = "KEY1") -> str:
    """Our reason to refuse the body; nothing when it is taken."""
    try:
        parse(body, sdk_key)
    except InvalidDatafileError as error:
        return error.reason
    return ""


def with_change(base: dict[str, Any], change: dict[str, Any]) -> bytes:
    """The datafile with some of its top fields replaced or, if ABSENT, removed."""
    fields = {key: value for key, value in {**base, **change}.items() if value is not ABSENT}
    return json.dumps(fields, ensure_ascii=False).encode()


JUNK: list[Any] = [
    None, True, False, 0, 1, -1, 1.5, 10**400, "", "x", "or", "Running", "1", [], {}, [""], [None], [[]], [[], []],
    [{}], ["or"], ["or", None], ["a", None, "b"], [["or", "x"]], ["not", "or"], {"a": 1}, {"id": "x", "key": "y"},
    '["or", {"match": "qualified", "value": ["x"]}]', '{"match": "qualified", "value": {"a": []}}', "\ufeff[]",
    QUALIFIED_LIST, {**QUALIFIED_LIST, "value": 5}, ["or", {"match": "exact", "value": [1]}],
]  # fmt: skip
NAMES = ["self", "id", "key", "variables", "audienceConditions", "featureEnabled", "includedRules", "sdkKey", "x"]


@st.composite
def faulty(draw: st.DrawFn) -> dict[str, Any]:
    """A realistic datafile with one to three faults."""
    root = copy.deepcopy(BASE)
    for _ in range(draw(st.integers(1, 3))):
        damage(draw, root)
    return root


def damage(draw: st.DrawFn, root: dict[str, Any]) -> None:
    """Do one thing to one place, any depth being as likely as another."""
    holder, key = walk(draw, root)
    action = draw(st.sampled_from(["delete", "junk", "junk", "other", "repeat", "wrap", "add"]))
    value = holder[key]
    if action == "delete":
        del holder[key]
    elif action == "junk":
        holder[key] = copy.deepcopy(draw(st.sampled_from(JUNK)))
    elif action == "other":
        other, name = walk(draw, root)
        holder[key] = copy.deepcopy(other[name])
    elif action == "repeat" and isinstance(holder, list):
        holder.append(copy.deepcopy(value))
    elif action == "wrap":
        holder[key] = draw(st.sampled_from([[value], {"a": value}, [value, value]]))
    elif isinstance(value, dict):
        value[draw(st.sampled_from(NAMES))] = copy.deepcopy(draw(st.sampled_from(JUNK)))


def walk(draw: st.DrawFn, root: dict[str, Any]) -> tuple[Any, Any]:
    """Go down from the top and stop somewhere; return what holds the place, and its key there."""
    holder: Any = root
    while True:
        key = draw(st.sampled_from(sorted(holder) if isinstance(holder, dict) else range(len(holder))))
        if not holder[key] or not isinstance(holder[key], dict | list) or draw(st.integers(0, 3)) == 0:
            return holder, key
        holder = holder[key]


@functools.cache
def sdk_is_newest() -> bool:
    """Whether the SDK here is one whose treatment of holdouts is the strictest."""
    return tuple(map(int, sdk_version.__version__.split(".")[:2])) >= (5, 6)


def is_about_holdouts_of_older_sdks(reason: str) -> bool:
    """Whether this is refused for the sake of newer SDKs than the one here, which does not look at it."""
    return bool(re.match(r"(localH|h)oldouts\b", reason)) and not sdk_is_newest()


def documented(root: dict[str, Any], reason: str) -> bool:
    """Whether a refusal of what the SDK takes is one of those that docs/decisions/0101 gives reasons for."""
    place, _, fault = reason.partition(": ")
    if place in ("sdkKey", "revision"):
        return True
    if is_about_holdouts_of_older_sdks(place):
        return True
    if fault == "not strict JSON":
        return "NaN" in at(root, place)
    if fault.endswith("not a list of plain values"):
        return place.endswith(("includedFlags", "excludedFlags", "includedRules"))
    if fault.startswith(("expected a list", "expected an object", "expected a string, got")):
        return is_other_container(at(root, place), fault) or has_namesakes(root)
    return has_namesakes(root)


def at(root: Any, place: str) -> Any:
    """The value at a place such as `featureFlags[3].key`."""
    for key, index in re.findall(r"([^.\[\]]+)|\[(\d+)\]", place):
        root = root[key] if key else root[int(index)]
    return root


def is_other_container(value: Any, fault: str) -> bool:
    """Whether this is an empty thing, a text or an object where a list belongs, or pairs where an object does."""
    if fault.startswith("expected a list"):
        return isinstance(value, str | dict) or value in (0, False)
    return isinstance(value, list | dict)


def has_namesakes(value: Any) -> bool:
    """Whether two entries of one list share an id or a key, so that the SDK looks at the last one only."""
    if isinstance(value, dict):
        return any(map(has_namesakes, value.values()))
    if not isinstance(value, list):
        return False
    for name in ("id", "key"):
        keys = [repr(entry[name]) for entry in value if isinstance(entry, dict) and name in entry]
        if len(keys) != len(set(keys)):
            return True
    return any(map(has_namesakes, value))


def check_same_verdict(root: dict[str, Any]) -> None:
    """What we take the SDK takes; what it takes we take, or the refusal is a documented one."""
    body = json.dumps(root).encode()
    reason = reason_against(body)
    taken = sdk_takes(body)
    assert taken or reason, "the SDK has no config"
    assert not taken or not reason or documented(root, reason), f"refused: {reason}"


@MANY
@given(faulty())
def test_our_verdict_is_the_sdks(root: dict[str, Any]) -> None:
    """Whatever is wrong with a datafile, an app never gets one without a config, nor waits for one that is fine."""
    check_same_verdict(root)


LEAVES: list[Any] = [
    "and", "or", "not", "a1", "a2", "a3", "unknown", "", None, 1, 1.0, True, 2.5, {}, {"a": 1}, QUALIFIED_LIST,
    {"match": "qualified", "value": "segment"}, {"match": "exact", "value": []}, {"x": QUALIFIED_LIST},
    {"match": "qualified", "value": QUALIFIED_LIST}, {"match": "qualified"}, '{"[', "\\",
]  # fmt: skip
TREES = st.recursive(st.sampled_from(LEAVES), lambda inner: st.lists(inner, max_size=4), max_leaves=8)
WORDS = TREES.map(lambda tree: json.dumps(tree, indent=1)) | st.sampled_from(
    ["", "[", "\ufeff[]", "[] x", "[NaN]", " 5 "]
)
NAMED = st.tuples(st.sampled_from(["a1", "a2", "", 1, None]), st.sampled_from(["A", "", None, 5, ["A"], {}]), TREES)


@MANY
@given(st.lists(NAMED, max_size=2), WORDS, TREES, TREES, st.booleans())
def test_conditions_are_read_as_the_sdk_reads_them(
    typed: list[tuple[Any, Any, Any]], old: str, of_experiment: Any, of_rule: Any, delivered: bool
) -> None:
    """Targeting that trips the SDK never reaches an app, and targeting that is merely odd does."""
    root = EMPTY | {
        "audiences": [{"id": "a2", "name": "A2", "conditions": old}],
        "typedAudiences": [dict(zip(("id", "name", "conditions"), audience, strict=True)) for audience in typed],
        "experiments": [{**EXPERIMENT, "audienceConditions": of_experiment}],
        "rollouts": [{"id": "r1", "experiments": [{**EXPERIMENT, "id": "e2", "audienceConditions": of_rule}]}],
        "featureFlags": [{**FLAG, "rolloutId": "r1" if delivered else ""}],
    }
    check_same_verdict(root)


SNIPPETS = [
    b"NaN",
    b"\\ud800",
    b"\\udc00",
    b"\xff",
    b"\xed\xa0\x80",
    b"\x00",
    b"\n",
    b"\\",
    b'"',
    b"[",
    b"}",
    b",",
    b"-1e5",
    b"",
]


@MANY
@given(st.integers(0, len(realistic(1, 43))), st.integers(0, 3), st.sampled_from(SNIPPETS) | st.binary(max_size=4))
def test_damaged_bytes_never_reach_the_app(start: int, length: int, snippet: bytes) -> None:
    """A byte that flips on the way to us costs a retry, not a flag; what is refused without need is no JSON anyway."""
    whole = realistic(1, 43)
    body = whole[:start] + snippet + whole[start + length :]
    reason = reason_against(body)
    taken = sdk_takes(body)
    assert taken or reason, "the SDK has no config"
    needless = taken and reason and not is_about_holdouts_of_older_sdks(reason)
    assert not needless or reason.startswith(("not strict JSON", "starts with", "sdkKey: ", "revision: "))
