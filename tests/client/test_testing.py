"""The datafiles that an app's own tests make."""

import json
from pathlib import Path

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


def test_a_file_is_written_whole_and_for_everybody(tmp_path: Path) -> None:
    """A user's watcher, under any uid, sees a complete file and no leftover."""
    write_datafile(tmp_path / "new", "KEY1", make_datafile({}))
    path = write_datafile(tmp_path / "new", "KEY1", make_datafile({}, revision=2).decode())
    assert path.stat().st_mode & 0o777 == 0o644
    assert [entry.name for entry in path.parent.iterdir()] == ["KEY1.json"]
    assert json.loads(path.read_bytes())["revision"] == "2"
