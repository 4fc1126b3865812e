"""Validation against the real SDK: nothing is published that it refuses, and nothing held back that it takes."""

import copy
import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datafile_sidecar.core.datafile import MAX_BYTES, InvalidDatafileError, parse
from tests.datafiles import minimal, realistic
from tests.sidecar.core.datafile.sdk_verdict import (
    ABSENT,
    AUDIENCE,
    EMPTY,
    EXPERIMENT,
    FLAG,
    HOLDOUT,
    MANY,
    QUALIFIED_LIST,
    check_same_verdict,
    is_about_holdouts_of_older_sdks,
    reason_against,
    sdk_takes,
    with_change,
)

BASE: dict[str, Any] = json.loads(realistic(18, 43))


def test_a_good_datafile_comes_back_as_served() -> None:
    """The app reads the very bytes that Optimizely served, with the digest by which it knows them."""
    body = realistic(10, 43)
    datafile = parse(body, "KEY1")
    assert datafile.body is body
    assert (datafile.revision, datafile.project_id, datafile.size) == (43, "1234", len(body))
    assert datafile.environment_key == "production"
    assert datafile.sha256 == hashlib.sha256(body).hexdigest()
    assert "feature_0" not in repr(datafile)


@pytest.mark.parametrize(
    ("value", "key"),
    [("staging", "staging"), ("", ""), (ABSENT, None), (None, None), (5, None), ({"a": 1}, None), ("x" * 5000, None)],
)
def test_the_environment(value: object, key: str | None) -> None:
    """The key of the environment is known where it is text; the SDK takes anything there, and so does the sidecar."""
    body = with_change(BASE, {"environmentKey": value})
    assert parse(body, "KEY1").environment_key == key
    assert sdk_takes(body)


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
    """Where an app would silently turn all flags off, the last good file stays and the log says which field is bad."""
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
    """Change one value; any depth is equally likely."""
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
    """Descend from the top to a random value; return its container and its key there."""
    holder: Any = root
    while True:
        key = draw(st.sampled_from(sorted(holder) if isinstance(holder, dict) else range(len(holder))))
        if not holder[key] or not isinstance(holder[key], dict | list) or draw(st.integers(0, 3)) == 0:
            return holder, key
        holder = holder[key]


@MANY
@given(faulty())
def test_our_verdict_is_the_sdks(root: dict[str, Any]) -> None:
    """Whatever is wrong with a datafile, an app never gets one without a config, nor waits for one that is fine."""
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
    """A byte that flips on the way to us costs a retry, not a flag; only invalid JSON is refused without need."""
    whole = realistic(1, 43)
    body = whole[:start] + snippet + whole[start + length :]
    reason = reason_against(body)
    taken = sdk_takes(body)
    assert taken or reason, "the SDK has no config"
    needless = taken and reason and not is_about_holdouts_of_older_sdks(reason)
    assert not needless or reason.startswith(("not strict JSON", "starts with", "sdkKey: ", "revision: "))
