"""The documents hold together: links lead somewhere, commands exist, and nothing of one machine stands in them."""

import functools
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contract.generated import ROOT

_DOCUMENTS = sorted(
    path for path in ROOT.rglob("*.md") if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
)
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_CODE = re.compile(r"^```(?:sh|console)\n(.*?)^```|`([^`\n]+)`", re.MULTILINE | re.DOTALL)
_MACHINE = re.compile(r"(?<![\w.<>])/(?:work|root|home|Users|tmp|opt|mnt)/")
_REGISTRY = re.compile(
    r"pypi\.org|pythonhosted|npmjs|deb\.debian\.org|crates\.io|proxy\.golang|--index-url|--find-links"
)


def _named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _commands(text: str) -> list[str]:
    """Each line of a shell block, and each piece of code in a sentence, that could be typed."""
    pieces = (block or inline for block, inline in _CODE.findall(text))
    return [line.strip() for piece in pieces for line in piece.replace("\\\n", " ").splitlines()]


def _anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@functools.cache
def _help(command: str) -> str:
    """What `datafile-sidecar COMMAND --help` prints; empty where there is no such command."""
    asked = [sys.executable, "-m", "datafile_sidecar", command, "--help"]
    answer = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=30)
    return answer.stdout if answer.returncode == 0 else ""


@pytest.mark.parametrize("path", _DOCUMENTS, ids=_named)
def test_links_lead_somewhere(path: Path) -> None:
    """Every link to a place in the repository leads to a file and, where it names one, to a heading in it."""
    for link in _LINK.findall(path.read_text()):
        if link.startswith(("http://", "https://")):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name) if name else path
        assert target.exists(), f"{link} leads nowhere"
        assert not anchor or anchor in _anchors(target), f"{link} names no heading"


@pytest.mark.parametrize("path", _DOCUMENTS, ids=_named)
def test_make_targets_exist(path: Path) -> None:
    """Every `make …` that a document tells somebody to type is a verb of the Makefile."""
    targets = set(re.findall(r"^([a-z][a-z0-9-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    asked = {match[1] for line in _commands(path.read_text()) if (match := re.match(r"make ([a-z0-9-]+)", line))}
    assert asked <= targets


@pytest.mark.parametrize("path", _DOCUMENTS, ids=_named)
def test_commands_and_options_exist(path: Path) -> None:
    """Every `datafile-sidecar …` in a document is a command with those options."""
    for line in _commands(path.read_text()):
        for command, rest in re.findall(r"datafile-sidecar ([a-z][a-z-]+)([^|&;]*)", line):
            assert _help(command), f"there is no command {command}"
            for option in re.findall(r"(?<=\s)--[a-z-]+", rest):
                assert re.search(rf"{option}\b", _help(command)), f"{command} has no option {option}"


@pytest.mark.parametrize("path", _DOCUMENTS, ids=_named)
def test_modules_that_are_run_exist(path: Path) -> None:
    """Every `python -m …` in a document names a module that is there."""
    for line in _commands(path.read_text()):
        for module in re.findall(r"\bpython3? -m ([\w.]+)", line):
            assert importlib.util.find_spec(module), f"there is no module {module}"


@pytest.mark.parametrize("path", _DOCUMENTS, ids=_named)
def test_nothing_of_one_machine(path: Path) -> None:
    """No document names a path of its author's machine or the host of a package registry."""
    assert _MACHINE.findall(path.read_text()) == []
    assert _REGISTRY.findall(path.read_text()) == []


@pytest.mark.parametrize("path", sorted((ROOT / "requirements").iterdir()), ids=_named)
def test_requirements_name_no_host(path: Path) -> None:
    """Requirements install from whatever registry the user's own machine is set up for."""
    assert re.findall(r"https?://|--index-url|--find-links", path.read_text()) == []


def test_architecture_names_every_module() -> None:
    """The architecture document names every module that exists, and no other."""
    page = (ROOT / "docs/architecture.md").read_text()
    sources = [path for folder in ("sidecar", "client") for path in (ROOT / folder / "src").rglob("*.py")]
    modules = {path.name for path in sources} - {"__init__.py"}
    assert set(re.findall(r"`([\w]+\.py)`", page)) == modules


def test_decisions_are_short_and_whole() -> None:
    """A decision is read in a minute and hides nothing: facts, one sentence, consequences, the bad ones too."""
    for path in sorted((ROOT / "docs/decisions").glob("[0-9]*.md")):
        text = path.read_text()
        assert text.startswith(f"# {path.name[:4]} "), f"{path.name} does not begin with its number"
        assert re.findall(r"^## (\w+)", text, re.MULTILINE) == ["Facts", "Decision", "Consequences"], path.name
        assert "- Bad: " in text, f"{path.name} has no bad consequence"
