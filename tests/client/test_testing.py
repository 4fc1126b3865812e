"""The datafiles that an app's own tests make."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optimizely.decision.optimizely_decision import OptimizelyDecision
from optimizely.optimizely import Optimizely

from datafile_client.testing import make_datafile, write_datafile
from datafile_sidecar.core.datafile import parse


def test_flags_are_on_or_off_for_everybody_with_typed_variables() -> None:
    """A user gets exactly the flags and variables that were asked for."""
    variables = {"text": "hi", "yes": True, "count": 3, "share": 0.5, "list": [1, {"a": None}], "map": {"b": 1}}
    datafile = make_datafile(
        {"checkout": True, "off": False, "banner": {"on": True, "variables": variables}, "dark": {"on": False}},
        revision=2,
    )
    user = Optimizely(datafile.decode()).create_user_context("anybody")
    assert user is not None
    decisions = user.decide_all()
    assert {key: decision.enabled for key, decision in decisions.items()} == {
        "checkout": True,
        "off": False,
        "banner": True,
        "dark": False,
    }
    assert decisions["banner"].variables == variables
    assert json.loads(datafile)["revision"] == "2"


@pytest.mark.parametrize("flag", ["on", {"enabled": False}, None, 1])
def test_a_flag_in_another_form_is_refused_by_name(flag: Any) -> None:
    """A slip in a test's set-up is no flag that is silently on."""
    with pytest.raises(ValueError, match="flag 'checkout' must be True, False, or rules: mappings with keys of 'on', "):
        make_datafile({"checkout": flag})


@pytest.mark.parametrize(
    ("flag", "reason"),
    [
        ({"on": "false"}, "'on' must be True or False"),
        ({"on": 0}, "'on' must be True or False"),
        ({"variables": ["x"]}, "'variables' must be a mapping"),
        ({"variables": {1: "x"}}, "'variables' must be a mapping"),
        ({"variables": {"x": {1, 2}}}, "can't be written as JSON"),
        ({"variables": {"x": float("nan")}}, "can't be written as JSON"),
        ({"variation": 1}, "'variation' must be a text"),
        ({"percentage": 101}, "'percentage' must be a number from 0 to 100"),
        ({"percentage": True}, "'percentage' must be a number from 0 to 100"),
        ({"user": 1}, "'user' must be a text"),
        ({"audience": "de"}, "'audience' must be a mapping or a list of conditions"),
        ({"audience": {"country": ["de"]}}, "'audience' must be a mapping or a list of conditions"),
        ({"user": "u1", "percentage": 50}, "a rule for a user has no audience and no percentage"),
        ({"user": "u1", "audience": {"country": "de"}}, "a rule for a user has no audience and no percentage"),
        (
            [{"percentage": 60}, {"variation": "b", "percentage": 60}],
            "the percentages for the same people are more than 100",
        ),
        ([{"percentage": 50}, {"percentage": 50}], "each rule of a split needs a 'variation' of its own"),
        ([{"variables": {"x": 1}}, {"user": "u", "variables": {"x": "1"}}], "'x' has values of different types"),
        (
            [{"on": False, "variables": {"x": 1}}, {"user": "u", "on": False, "variables": {"x": 2}}],
            "'x' has two values where the flag is off",
        ),
    ],
)
def test_a_value_of_another_type_is_refused_by_name(flag: Any, reason: str) -> None:
    """A flag that a test sets to the text "false" is not on."""
    with pytest.raises(ValueError, match=f"flag 'checkout': .*{reason}"):
        make_datafile({"checkout": flag})


@pytest.mark.parametrize("events", ["bought", [1], [None]])
def test_events_are_texts(events: Any) -> None:
    """One event's key is not taken for a list of letters."""
    with pytest.raises(ValueError, match="events must be a list of texts"):
        make_datafile({}, events=events)


def users(datafile: bytes) -> Callable[..., OptimizelyDecision]:
    """Return what decides the flag `it` for a user with these attributes."""
    optimizely = Optimizely(datafile.decode(), event_dispatcher=Mock())

    def decide(user: str, **attributes: Any) -> OptimizelyDecision:
        context = optimizely.create_user_context(user, attributes)  # type: ignore[arg-type]  # a NewType of dict
        assert context is not None
        return context.decide("it")

    return decide


def test_a_user_gets_what_is_set_for_them() -> None:
    """A user of the kit sets a flag for one person, and nobody else has it."""
    decide = users(
        make_datafile({"it": {"user": "u1", "variation": "blue", "variables": {"n": 2, "s": "x", "j": [1]}}})
    )
    assert (decide("u1").enabled, decide("u1").variation_key) == (True, "blue")
    assert decide("u1").variables == {"n": 2, "s": "x", "j": [1]}
    assert (decide("u2").enabled, decide("u2").variables) == (False, {"n": 0, "s": "", "j": []})


def test_an_audience_gets_what_is_set_for_it() -> None:
    """A user of the kit sets a flag for people with some attributes, in words or in Optimizely's own conditions."""
    adults = ["and", {"match": "ge", "name": "age", "type": "custom_attribute", "value": 18}]
    rules: list[dict[str, Any]] = [
        {"audience": {"country": "de", "beta": True}, "variables": {"n": 1}},
        {"audience": adults, "variables": {"n": 2}},
        {"variables": {"n": 3}},
    ]
    decide = users(make_datafile({"it": rules}))
    assert decide("u", country="de", beta=True, age=20).variables == {"n": 1}
    assert decide("u", country="de", age=20).variables == {"n": 2}
    assert decide("u", country="de").variables == {"n": 3}


def test_a_split_gives_each_variation_its_share() -> None:
    """A user of the kit tests an experiment with the SDK's own buckets, and the rest is off."""
    red = {"variation": "red", "percentage": 20, "variables": {"color": "red"}}
    blue = {"variation": "blue", "percentage": 50, "variables": {"color": "blue"}}
    decide = users(make_datafile({"it": [red, blue]}))
    decisions = [decide(f"user-{number}") for number in range(2000)]
    shares = Counter(decision.variables["color"] for decision in decisions)
    assert shares["red"] == pytest.approx(400, abs=60)
    assert shares["blue"] == pytest.approx(1000, abs=70)
    assert {decision.variation_key for decision in decisions if not decision.enabled} == {"off"}


def test_a_percentage_is_a_share_of_the_people() -> None:
    """A user of the kit tests a gradual rollout."""
    decide = users(make_datafile({"it": {"percentage": 30}}))
    assert sum(decide(f"user-{number}").enabled for number in range(2000)) == pytest.approx(600, abs=70)


RULES = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "on": st.booleans(),
            "variables": st.dictionaries(
                st.sampled_from("ab"), st.integers() | st.text(max_size=3) | st.none(), max_size=2
            ),
            "variation": st.sampled_from(["x", "y", "z"]),
            "percentage": st.floats(0, 100),
            "user": st.sampled_from(["u1", "u2"]),
            "audience": st.dictionaries(st.sampled_from("pq"), st.booleans() | st.text(max_size=2), max_size=2),
        },
    ),
    max_size=5,
)


@given(st.dictionaries(st.text(max_size=5), RULES, max_size=3))
def test_whatever_is_made_is_a_datafile(flags: Any) -> None:
    """A user gets a datafile that the sidecar would publish and the SDK takes, or an error that names the flag."""
    datafile, problem = b"", ""
    try:
        datafile = make_datafile(flags)
    except ValueError as error:
        problem = str(error)
    if problem:
        assert problem.startswith("flag ")
    else:
        parse(datafile, "KEY1")
        assert Optimizely(datafile.decode()).is_valid


def test_a_file_is_written_whole_and_for_everybody(tmp_path: Path) -> None:
    """A user's watcher, under any uid, sees a complete file and no leftover."""
    write_datafile(tmp_path / "new", "KEY1", make_datafile({}))
    path = write_datafile(tmp_path / "new", "KEY1", make_datafile({}, revision=2).decode())
    assert path.stat().st_mode & 0o777 == 0o644
    assert [entry.name for entry in path.parent.iterdir()] == ["KEY1.json"]
    assert json.loads(path.read_bytes())["revision"] == "2"
