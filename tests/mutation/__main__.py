"""Mutation testing of the sidecar's core: change one expression at a time, and see whether a test fails. `make mutation`.

cosmic-ray makes the mutants. Each is written into a copy of the sidecar, and tested there in a child process that is forked from
this one, because loading pytest anew takes longer than most of the tests. Only tests/sidecar/core is run: first the module that
mirrors the mutant's, then its neighbours. The exit status is 1 if a mutant survives that equal.toml does not name.
"""

import argparse
import contextlib
import difflib
import multiprocessing
import os
import random
import re
import resource
import shutil
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cosmic_ray.plugins
import pytest
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "sidecar/src"
CORE = SOURCE / "datafile_sidecar/core"
TESTS = ROOT / "tests/sidecar/core"
EQUAL = Path(__file__).with_name("equal.toml")

# Of the replacements of one operator, those that a test can't kill without killing the others too. `|` joins types here, and
# `==` for `is` changes nothing for None and enums.
OPERATORS = re.compile(
    r"core/(AddNot|NumberReplacer|ReplaceTrueWithFalse|ReplaceFalseWithTrue|ReplaceAndWithOr|ReplaceOrWithAnd|ExceptionReplacer"
    r"|RemoveDecorator|ZeroIterationForLoop|ReplaceBreakWithContinue|ReplaceContinueWithBreak"
    r"|ReplaceUnaryOperator_(Delete_Not|USub_UAdd)"
    r"|ReplaceBinaryOperator_(Add_Sub|Sub_Add|Mul_Div|Div_Mul|Pow_Mul|FloorDiv_Div|Mod_Mul)"
    r"|ReplaceComparisonOperator_(Lt_(LtE|NotEq)|LtE_(Lt|Eq)|Gt_(GtE|NotEq)|GtE_(Gt|Eq)|Eq_(LtE|GtE)|NotEq_(Lt|Gt)"
    r"|Is_IsNot|IsNot_Is))"
)
TEST_TIMEOUT_S = 30
MUTANT_TIMEOUT_S = 240
MEMORY = 4 << 30


@dataclass(frozen=True, order=True)
class Mutant:
    """One change, by cosmic-ray's name of the operator and its occurrence in the module."""

    module: str
    operator: str
    occurrence: int

    def code(self) -> str | None:
        """Return the module's source with this change, None where cosmic-ray can't make it."""
        operator = cosmic_ray.plugins.get_operator(self.operator)()
        try:
            return str(mutate_code((CORE / self.module).read_text(), operator, self.occurrence))
        except AttributeError:  # ExceptionReplacer, for a single exception with a dot in its name
            return None


@dataclass(frozen=True)
class Change:
    """What a mutant changes, without line numbers, so that equal.toml stays valid when lines move."""

    file: str
    line: str
    mutant: str


def all_mutants(modules: list[str]) -> Iterator[Mutant]:
    """Every mutant of these modules."""
    for module in modules:
        nodes = list(ast_nodes(get_ast((CORE / module).read_text())))
        for name in filter(OPERATORS.fullmatch, cosmic_ray.plugins.operator_names()):
            operator = cosmic_ray.plugins.get_operator(name)()
            for occurrence in range(sum(len(list(operator.mutation_positions(node))) for node in nodes)):
                yield Mutant(module, name, occurrence)


def change_of(mutant: Mutant, code: str) -> tuple[Change, int]:
    """Return what differs, and in which line of the original."""
    original, mutated = (CORE / mutant.module).read_text().splitlines(), code.splitlines()
    changes = difflib.SequenceMatcher(None, original, mutated, autojunk=False).get_opcodes()
    changed = [c for c in changes if c[0] != "equal"]
    line, text = (
        " ".join(part.strip() for _, a, b, c, d in changed for part in lines[slice(*((a, b), (c, d))[side])])
        for side, lines in enumerate((original, mutated))
    )
    return Change(mutant.module, line, text), changed[0][1] + 1


def equal_changes() -> set[Change]:
    """Read the changes that no test can notice.

    Raises:
        SystemExit: An entry names a line that is not in its module any more.
    """
    entries = tomllib.loads(EQUAL.read_text())["equal"]
    for entry in entries:
        text = " ".join(" ".join(path.read_text() for path in sorted(CORE.glob(entry["file"]))).split())
        if " ".join(entry["line"].split()) not in text:
            sys.exit(f"{EQUAL.name} names a line that is not in {entry['file']} any more: {entry['line']}")
    return {
        Change(path.relative_to(CORE).as_posix(), entry["line"], mutant)
        for entry in entries
        for path in CORE.glob(entry["file"])
        for mutant in entry["mutants"]
    }


def is_killed(sources: Path, module: str) -> bool:
    """Run the tests against the copy: the mirroring module first, for most mutants die there, then those that name the module."""
    name = Path(module).stem
    mirror = TESTS / Path(module).with_name(f"test_{name}.py")
    others = [path for path in mirror.parent.glob("test_*.py") if path != mirror]
    others.sort(key=lambda path: (name not in path.read_text(), path))
    return any(_fails(sources, tests) for tests in ([mirror] if mirror.exists() else [], others) if tests)


def _fails(sources: Path, tests: list[Path]) -> bool:
    child = multiprocessing.get_context("fork").Process(target=_run, args=(sources, tests))
    child.start()
    child.join(MUTANT_TIMEOUT_S)
    if child.is_alive():
        child.kill()
        child.join()
    return child.exitcode != 0


def _run(sources: Path, tests: list[Path]) -> None:
    """Run the tests in this child process, and leave it with pytest's exit status."""
    sys.path.insert(0, str(sources))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    os._exit(_pytest("-x", f"--timeout={TEST_TIMEOUT_S}", *map(str, tests)))


def preload() -> None:
    """Load pytest with its plugins, and what the tests import, but not what is under test."""
    _pytest("--collect-only", str(TESTS))
    for name in [name for name in sys.modules if name.partition(".")[0] in {"datafile_sidecar", "tests"}]:
        del sys.modules[name]


def _pytest(*arguments: str) -> int:
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        return pytest.main(["-q", "--assert=plain", "-p", "no:cacheprovider", *arguments])


def campaign(mutants: list[Mutant], equal: set[Change]) -> Counter[str]:
    """Test the mutants one after the other, and print each; return how many came out how."""
    outcomes = Counter[str]()
    sys.dont_write_bytecode = True
    preload()
    with tempfile.TemporaryDirectory() as folder:
        sources = Path(shutil.copytree(SOURCE, Path(folder, "src"), ignore=shutil.ignore_patterns("__pycache__")))
        if _fails(sources, [TESTS]):
            sys.exit(f"{TESTS.relative_to(ROOT)} fails without a mutant, or takes longer than {MUTANT_TIMEOUT_S} s")
        for mutant in mutants:
            if (code := mutant.code()) is None:
                continue
            change, number = change_of(mutant, code)
            path = sources / CORE.relative_to(SOURCE) / mutant.module
            path.write_text(code)
            outcome = "equal" if change in equal else "killed" if is_killed(sources, mutant.module) else "SURVIVED"
            path.write_text((CORE / mutant.module).read_text())
            outcomes[outcome] += 1
            print(f"{outcome:8} {mutant.module}:{number}: {change.line}  ->  {change.mutant}", flush=True)
    return outcomes


def main() -> int:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("--sample", default="40", help="how many mutants, or `all` (40)")
    parser.add_argument("--seed", type=int, default=1)
    modules = sorted(path.relative_to(CORE).as_posix() for path in CORE.rglob("*.py"))
    parser.add_argument("modules", nargs="*", metavar="MODULE", help="some modules of core/, like gate.py (all)")
    options = parser.parse_args()
    if unknown := set(options.modules) - set(modules):
        parser.error(f"no such module: {', '.join(sorted(unknown))}")
    equal, started = equal_changes(), time.monotonic()
    mutants = list(all_mutants(options.modules or modules))
    size = len(mutants) if options.sample == "all" else min(int(options.sample), len(mutants))
    chosen = sorted(random.Random(options.seed).sample(mutants, size))
    print(f"seed {options.seed}, {size} of {len(mutants)} mutants", flush=True)
    outcomes = campaign(chosen, equal)
    counts = ", ".join(f"{outcomes[outcome]} {outcome.lower()}" for outcome in ("killed", "equal", "SURVIVED"))
    print(f"{counts}, in {time.monotonic() - started:.0f} s")
    if outcomes["SURVIVED"]:
        print(
            f"Kill each survivor with a test in tests/sidecar/core, or say in {EQUAL.relative_to(ROOT)} why none can notice it."
        )
    return int(outcomes["SURVIVED"] > 0)


if __name__ == "__main__":
    sys.exit(main())
