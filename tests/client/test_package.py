"""The package as a whole: small, typed and documented."""

import inspect
import io
import json
import subprocess
import sys
import tokenize
import zipfile
from pathlib import Path

import pytest

import datafile_client
from datafile_client import openfeature, testing
from tests.client.servers import need

CLIENT = Path(__file__).parents[2] / "client"
EXTRAS = {"openfeature", "testing", "__main__.py", "_explain_command.py", "_explanation.py"}
"""What an app imports only if it wants to, and what runs in a process of its own: `python -m datafile_client`."""
NO_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


def code_lines(source: str) -> int:
    """Count the lines that hold code: no blanks, no comments, no text that stands alone."""
    lines: set[int] = set()
    statement: list[tokenize.TokenInfo] = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in NO_CODE:
            statement.append(token)
        elif token.type == tokenize.NEWLINE:
            if [part.type for part in statement] != [tokenize.STRING]:
                lines.update(line for part in statement for line in range(part.start[0], part.end[0] + 1))
            statement = []
    return len(lines)


def test_the_whole_client_can_be_read_in_an_hour() -> None:
    """A user who wants to know what runs in their app has less than 1,800 lines of code to read."""
    source = CLIENT / "src" / "datafile_client"
    modules = [path for path in source.rglob("*.py") if path.relative_to(source).parts[0] not in EXTRAS]
    assert len(modules) > 5
    assert 500 < sum(code_lines(module.read_text()) for module in modules) < 1800


def test_every_module_has_its_tests() -> None:
    """A user who changes a module finds its tests by its name."""
    modules = {path.stem.lstrip("_") for path in (CLIENT / "src" / "datafile_client").glob("*.py")}
    modules -= {"init__", "main__"}
    assert modules <= {path.stem.removeprefix("test_") for path in Path(__file__).parent.glob("test_*.py")}


def test_the_wheel_holds_the_types_and_the_licence_and_nothing_strange(tmp_path: Path) -> None:
    """A user who installs the wheel gets the package's modules, its types for their own checker, and the licence."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(command, cwd=CLIENT, check=True, timeout=50, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    packages = {"datafile_client", "pytest_datafile_client"}
    source = CLIENT / "src"
    modules = {str(path.relative_to(source)) for path in source.rglob("*.py")}
    assert {name for name in names if "-" not in name} == modules | {f"{package}/py.typed" for package in packages}
    assert {name.split("/")[0].split("-")[0] for name in names} == packages
    assert [name for name in names if name.endswith("/licenses/LICENSE")]


@pytest.mark.system
def test_every_public_type_is_known(tmp_path: Path) -> None:
    """A user of pyright in its strict mode meets no unknown type of ours."""
    need("basedpyright")
    install = ["pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target", str(tmp_path), str(CLIENT)]
    subprocess.run([sys.executable, "-m", *install], check=True, timeout=100, capture_output=True)
    done = subprocess.run(
        ["basedpyright", "--verifytypes", "datafile_client", "--ignoreexternal", "--outputjson"],
        cwd=tmp_path,
        env={"PATH": str(Path(sys.executable).parent), "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    symbols = json.loads(done.stdout)["typeCompleteness"]["symbols"]
    unknown = {symbol["name"] for symbol in symbols if symbol["isExported"] and not symbol["isTypeKnown"]}
    assert len(symbols) > 100
    # OpenFeature's SDK declares its own types in a way that this check does not see.
    assert {name for name in unknown if not name.startswith("datafile_client.openfeature.")} == set(), done.stdout


PUBLIC = [getattr(module, name) for module in (datafile_client, openfeature, testing) for name in module.__all__]


@pytest.mark.parametrize("thing", PUBLIC, ids=lambda thing: str(thing.__name__))
def test_every_public_name_is_documented(thing: object) -> None:
    """A user who asks help() about any public name reads what it is, what it takes and what it raises."""
    members = vars(thing) if isinstance(thing, type) else {}
    documented = {name: value for name, value in members.items() if not name.startswith("_") and callable(value)}
    documented |= {name: value for name, value in members.items() if isinstance(value, property)}
    assert inspect.getdoc(thing)
    for name, value in documented.items():
        doc = inspect.getdoc(value)
        assert doc, name
        taken = set(inspect.signature(value).parameters) - {"self"} if callable(value) else set()
        assert all(parameter in doc for parameter in taken), (name, doc)
