"""The walks through the code that `docs/architecture.md` tells are held against the code."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/architecture.md").read_text()
SOURCES = {"datafile_sidecar": ROOT / "sidecar/src", "datafile_client": ROOT / "client/src"}
MAX_STEPS = 12

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Step:
    """One line of a walk: how far it is indented, and the function that it names."""

    indent: int
    name: str
    is_way_back: bool


def walks() -> dict[str, list[Step]]:
    """Every walk on the page, by its heading."""
    found = {}
    for heading, block in re.findall(r"^### (Walk: [^\n]+)\n.*?```text\n(.*?)```", PAGE, re.MULTILINE | re.DOTALL):
        lines = [re.match(r"( *)(↺ )?([\w.]+)", line) for line in block.splitlines()]
        found[heading] = [Step(len(line[1]), line[3], bool(line[2])) for line in lines if line]
    return found


class Code:
    """One module's functions and methods, looked up by name."""

    def __init__(self, name: str) -> None:
        parts = name.split(".")
        package = parts[0] if parts[0] in SOURCES else "datafile_sidecar"
        parts = parts if parts[0] in SOURCES else [package, *parts]
        for split in range(len(parts) - 1, 0, -1):
            path = SOURCES[package].joinpath(*parts[:split])
            path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
            if path.exists():
                self.tree, self.attributes = ast.parse(path.read_text()), parts[split:]
                return
        raise LookupError(name)

    def function(self) -> Function | None:
        """The function that the name stands for, None where its package only hands it on."""
        body: list[ast.stmt] = self.tree.body
        for attribute in self.attributes[:-1]:
            body = next(one.body for one in body if isinstance(one, ast.ClassDef) and one.name == attribute)
        return _named(body, self.attributes[-1])

    def exports(self) -> bool:
        """Whether the module imports a function of this name to hand it on."""
        imports = [one for one in self.tree.body if isinstance(one, ast.ImportFrom)]
        return any(alias.name == self.attributes[-1] for one in imports for alias in one.names)

    def calls(self, function: Function, inside: frozenset[str] = frozenset()) -> Iterator[str]:
        """The names that a function calls or hands on, in their order; its module's own helpers are followed."""
        owner = [
            one
            for cls in self.tree.body
            if isinstance(cls, ast.ClassDef) and function in ast.walk(cls)
            for one in cls.body
        ]
        for node in _evaluated(function):
            name = node.attr if isinstance(node, ast.Attribute) else node.id
            yield name
            helper = _named(owner, name) if _is_own(node) else _named(self.tree.body, name)
            if helper is not None and name not in inside:
                yield from self.calls(helper, inside | {name})


def _evaluated(node: ast.AST) -> Iterator[ast.Attribute | ast.Name]:
    """The names under a node in the order in which they are used: the arguments of a call before its function."""
    children = list(ast.iter_child_nodes(node))
    if isinstance(node, ast.Call):
        children = [*node.args, *node.keywords, node.func]
    for child in children:
        yield from _evaluated(child)
    if isinstance(node, ast.Attribute | ast.Name):
        yield node


def _is_own(node: ast.Attribute | ast.Name) -> bool:
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"


def _named(body: list[ast.stmt], name: str) -> Function | None:
    return next((one for one in body if isinstance(one, Function) and one.name == name), None)


WALKS = walks()


def test_the_page_tells_six_walks() -> None:
    """A webhook, a poll, a record of the bus, a pod on the bus, a `status` and a change in the client each have their walk."""
    assert len(WALKS) == 6


@pytest.mark.parametrize("heading", WALKS)
def test_a_walk_is_the_true_one(heading: str) -> None:
    """Each step names a function that exists, and that the step it is indented under calls, after the step before it."""
    callers: list[tuple[Step, list[str]]] = []
    for step in WALKS[heading]:
        callers = [caller for caller in callers if caller[0].indent < step.indent]
        code = Code(step.name)
        function = code.function()
        assert function is not None or code.exports(), f"{step.name} does not exist"
        if callers:
            caller, calls = callers[-1]
            name = step.name.rpartition(".")[2]
            assert name in calls, f"{caller.name} does not call {name} here"
            del calls[: calls.index(name) + 1]
        callers.append((step, list(code.calls(function)) if function else []))


def test_a_webhook_is_on_the_volume_in_few_steps() -> None:
    """From the body of a webhook to the file there are at most twelve steps, and one way back."""
    steps = WALKS["Walk: one webhook"]
    assert len([step for step in steps if not step.is_way_back]) <= MAX_STEPS
    assert len([step for step in steps if step.is_way_back]) == 1


def test_the_import_graph_is_small_and_goes_down() -> None:
    """A stranger can hold it in mind: packages of the sidecar, with the imports between them."""
    graph = grimp.build_graph("datafile_sidecar", cache_dir=None)
    edges = {
        (_package(importer), _package(imported))
        for importer in graph.modules
        for imported in graph.find_modules_directly_imported_by(importer)
    }
    edges = {(importer, imported) for importer, imported in edges if importer != imported}
    packages = {package for edge in edges for package in edge}
    assert len(packages) <= 30
    assert len(edges) <= 90
    assert max(_depth(package, edges, ()) for package in packages) <= 7


def test_the_top_of_the_sidecar_is_short() -> None:
    """The listing of the package is the architecture."""
    entries = [path for path in (SOURCES["datafile_sidecar"] / "datafile_sidecar").iterdir() if path.name[:2] != "__"]
    assert len(entries) + 2 <= 14  # with __init__.py and __main__.py


def test_the_owner_of_the_state_is_small_and_the_only_one() -> None:
    """One class holds and writes a key's State, and it fits on a few screens."""
    package = SOURCES["datafile_sidecar"] / "datafile_sidecar"
    holders = []
    for path in package.rglob("*.py"):
        for cls in ast.walk(ast.parse(path.read_text())):
            if isinstance(cls, ast.ClassDef) and "core" not in path.relative_to(package).parts:
                fields = [
                    one for one in ast.walk(cls) if isinstance(one, ast.Attribute) and isinstance(one.ctx, ast.Store)
                ]
                if any(one.attr == "state" for one in fields):
                    holders.append(cls)
    assert [cls.name for cls in holders] == ["KeySyncer"]
    assert holders[0].bases == []
    assert (holders[0].end_lineno or 0) - holders[0].lineno + 1 <= 260


def _package(module: str) -> str:
    path = SOURCES["datafile_sidecar"].joinpath(*module.split("."), "__init__.py")
    return module if path.exists() else module.rpartition(".")[0]


def _depth(package: str, edges: set[tuple[str, str]], above: tuple[str, ...]) -> int:
    assert package not in above, f"a circle of packages: {' → '.join((*above, package))}"
    below = [imported for importer, imported in edges if importer == package]
    return 1 + max((_depth(one, edges, (*above, package)) for one in below), default=0)
