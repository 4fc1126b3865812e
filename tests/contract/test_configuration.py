"""What the documents say of settings, metrics and decisions is what the code says."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from datafile_sidecar.config.settings import VARIABLES, EnvironmentVariable, load
from tests.contract.generated import PARTS, ROOT, part_of

_MEND = "out of date; run: python -m tests.contract.generated --write"
_NAME = re.compile(r"\bDATAFILE_[A-Z_]*[A-Z]\b")
_WITH_DEFAULT = [variable for variable in VARIABLES if variable.default.startswith("`") and " " not in variable.default]


@pytest.mark.parametrize(("path", "name", "make"), PARTS, ids=[f"{path.name}-{name}" for path, name, _ in PARTS])
def test_made_from_the_code(path: Path, name: str, make: Callable[[], str]) -> None:
    """A table in the documents lists exactly what the installed version has."""
    assert part_of(path.read_text(), name) == make().strip(), f"{path.relative_to(ROOT)}: {name} is {_MEND}"


@pytest.mark.parametrize(
    "path", [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))], ids=lambda path: path.name
)
def test_named_variables_exist(path: Path) -> None:
    """No document tells a user to set a variable that the sidecar does not know."""
    assert set(_NAME.findall(path.read_text())) <= {variable.name for variable in VARIABLES}


@pytest.mark.parametrize("variable", _WITH_DEFAULT, ids=lambda variable: variable.name)
def test_defaults_are_true(variable: EnvironmentVariable) -> None:
    """The default that the table shows is the one that an unset variable has."""
    assert variable.parse(variable.default.strip("`")) == getattr(load({"DATAFILE_SDK_KEYS": "key"}), variable.field)
