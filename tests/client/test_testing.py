"""The datafiles that an app's own tests make."""

import json
from pathlib import Path
from typing import Any

import pytest
from optimizely.optimizely import Optimizely

from datafile_client.testing import make_datafile, write_datafile


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
    with pytest.raises(ValueError, match="flag 'checkout' must be True, False, or a mapping with 'on' and 'variables'"):
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


def test_a_file_is_written_whole_and_for_everybody(tmp_path: Path) -> None:
    """A user's watcher, under any uid, sees a complete file and no leftover."""
    write_datafile(tmp_path / "new", "KEY1", make_datafile({}))
    path = write_datafile(tmp_path / "new", "KEY1", make_datafile({}, revision=2).decode())
    assert path.stat().st_mode & 0o777 == 0o644
    assert [entry.name for entry in path.parent.iterdir()] == ["KEY1.json"]
    assert json.loads(path.read_bytes())["revision"] == "2"
