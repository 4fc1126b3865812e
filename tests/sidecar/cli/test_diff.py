"""`datafile-sidecar diff`, on files."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from datafile_sidecar.cli import main as cli
from tests.datafiles import realistic

SWITCHED = "feature_0: rule rule-0-0: off"


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Two datafiles of another SDK key than any that is configured; in the second, a rule is switched off."""
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    old.write_bytes(realistic(20, 42, "any-key"))
    data = json.loads(old.read_bytes()) | {"revision": "43"}
    data["rollouts"][0]["experiments"][0]["variations"][0]["featureEnabled"] = False
    new.write_text(json.dumps(data, indent=1))
    return old, new


def test_files(files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """It prints what changes, a line each, and nothing where no decision can change."""
    assert cli.main(["diff", *map(str, files)], {}) == 0
    assert capsys.readouterr().out == f"{SWITCHED}\n"
    assert cli.main(["diff", str(files[0]), str(files[0])], {}) == 0
    assert capsys.readouterr().out == ""


def test_json(files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """With --json it prints a list, an empty one where no decision can change."""
    for names, expected in ((files, [SWITCHED]), (files[:1] * 2, [])):
        assert cli.main(["diff", *map(str, names), "--json"], {}) == 0
        assert json.loads(capsys.readouterr().out) == expected


def test_standard_input(files: tuple[Path, Path]) -> None:
    """What a pipe brings can be compared with a file."""
    command = [sys.executable, "-m", "datafile_sidecar", "diff", str(files[0]), "-"]
    done = subprocess.run(command, input=files[1].read_bytes(), capture_output=True, timeout=30, check=True)
    assert done.stdout.decode() == f"{SWITCHED}\n"


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "can't be read: No such file"), (b"{}", "is not a datafile: "), (b"[" * 9_000_000, "larger than")],
)
def test_not_a_datafile(
    files: tuple[Path, Path], content: bytes | None, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that is missing or no datafile is named, with the reason."""
    wrong = files[1].with_name("wrong.json")
    if content is not None:
        wrong.write_bytes(content)
    assert cli.main(["diff", str(files[0]), str(wrong)], {}) == 1
    said = capsys.readouterr()
    assert f"{wrong} " in said.err
    assert reason in said.err
    assert said.out == ""
