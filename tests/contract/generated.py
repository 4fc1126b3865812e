"""The parts of the documents that are generated from the code: `python -m tests.contract.generated --write` updates them.

Such a part is between `<!-- name -->` and `<!-- end -->`.
"""

import ast
import inspect
import re
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import structlog
from prometheus_client import Counter
from prometheus_client.parser import text_string_to_metric_families

from datafile_sidecar.config.settings import VARIABLES
from datafile_sidecar.observe.metrics import METRICS
from datafile_sidecar.observe.telemetry import Telemetry

ROOT = Path(__file__).parents[2]
DECISIONS = ROOT / "docs/decisions"


_LEVELS = {"debug", "info", "warning", "error", "_warn_throttled"}


def variables() -> str:
    """Return the table of the sidecar's environment variables."""
    rows = [(f"`{one.name}`", one.default, one.meaning) for one in VARIABLES]
    return _table(("variable", "default", "meaning"), rows)


def metrics() -> str:
    """Return the table of the sidecar's own metrics."""
    return _table(("metric", "type", "labels", "meaning"), [(*row[:3], row[4]) for row in _metrics()])


def labels() -> str:
    """Return the table of labels with fixed values."""
    rows = [
        (name, f"`{label}`", ", ".join(f"`{value}`" for value in values))
        for name, _, _, chosen, _ in _metrics()
        for label, values in chosen.items()
    ]
    return _table(("metric", "label", "values"), rows)


def events() -> str:
    """Return the table of events: token and level in the log, meaning, what to do, and the metrics that it updates."""
    rows = []
    for method in _event_methods():
        means, _, todo = " ".join((ast.get_docstring(method) or "").split()).partition(" → ")
        token, level = _logged(method)
        rows.append((token, level, means, todo, ", ".join(_updated(method)) or "–"))
    rows.append(
        (
            "`library.logged`",
            "that of the record",
            "A library that the sidecar uses logged something at warning or above.",
            "Read `message`; if it repeats, report it.",
            "–",
        )
    )
    return _table(("event", "level", "meaning", "what to do", "metrics"), rows)


def decisions() -> str:
    """Return a list of links to the decision records, with their titles."""
    titles = ((path.name, path.read_text().partition("\n")[0]) for path in sorted(DECISIONS.glob("[0-9]*.md")))
    return "\n".join(f"- [{title.removeprefix('# ')}]({name})" for name, title in titles)


def modules() -> str:
    """Each module of both distributions, and the first sentence of its docstring."""
    rows = []
    for source in (ROOT / "sidecar/src/datafile_sidecar", ROOT / "client/src/datafile_client"):
        for path in sorted(source.rglob("*.py"), key=lambda path: (path.parent, path.name)):
            says = (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]
            folder = path.parent.relative_to(source.parent)
            rows.append((f"`{folder}/`" if path.name == "__init__.py" else f"`{path.name}`", says))
    return _table(("module", "what it says of itself"), rows)


PARTS: tuple[tuple[Path, str, Callable[[], str]], ...] = (
    (ROOT / "README.md", "variables", variables),
    (ROOT / "docs/configuration.md", "variables", variables),
    (ROOT / "docs/architecture.md", "modules", modules),
    (ROOT / "docs/contract.md", "metrics", metrics),
    (ROOT / "docs/contract.md", "labels", labels),
    (ROOT / "docs/events.md", "events", events),
    (ROOT / "docs/events.md", "metrics", metrics),
    (DECISIONS / "README.md", "decisions", decisions),
)


def part_of(text: str, name: str) -> str:
    """Return the text between the marks. Raises ValueError where they are missing."""
    if (match := _between(name).search(text)) is None:
        raise ValueError(f"there is no <!-- {name} --> … <!-- end -->")
    return match[2].strip()


def with_part(text: str, name: str, part: str) -> str:
    """Return the text with the part between the marks replaced."""
    return _between(name).sub(lambda match: f"{match[1]}{part}\n{match[3]}", text)


def write() -> list[str]:
    """Update every part, and return the documents that changed."""
    changed = []
    for path, name, make in PARTS:
        before = path.read_text()
        after = with_part(before, name, make())
        if after != before:
            path.write_text(after)
            changed.append(str(path.relative_to(ROOT)))
    return changed


def _event_methods() -> list[ast.FunctionDef]:
    """Return the methods of Telemetry that are events, in their order."""
    tree = ast.parse(inspect.getsource(Telemetry))
    body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
    helpers = {"prepare", "exposition", "summarise"}
    functions = [one for one in body if isinstance(one, ast.FunctionDef)]
    return [one for one in functions if one.name not in helpers and not one.name.startswith("_")]


def _logged(method: ast.FunctionDef) -> tuple[str, str]:
    """Return the token of an event's line and its levels; the method's name where there is no line."""
    calls = [node for node in ast.walk(method) if isinstance(node, ast.Call) and _is_line(node.func)]
    tokens = {ast.literal_eval(call.args[0]) for call in calls}
    levels = {
        "warning" if node.attr == "_warn_throttled" else node.attr
        for node in ast.walk(method)
        if isinstance(node, ast.Attribute) and node.attr in _LEVELS
    }
    assert len(tokens) <= 1, f"{method.name} has more than one token"
    return (f"`{tokens.pop()}`", " or ".join(sorted(levels))) if tokens else (f"({method.name.replace('_', ' ')})", "–")


def _is_line(called: ast.expr) -> bool:
    return (isinstance(called, ast.Attribute) and called.attr in _LEVELS) or ast.unparse(called) == "log"


def _updated(method: ast.FunctionDef) -> list[str]:
    """Return the metrics that an event updates."""
    names = []
    for node in ast.walk(method):
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("self._metrics."):
            name = ast.literal_eval(node.args[0])
            names.append(f"`datafile_sidecar_{name}{'_total' if METRICS[name][0] is Counter else ''}`")
    return list(dict.fromkeys(names))


def _metrics() -> list[tuple[str, str, str, dict[str, list[str]], str]]:
    """Return each metric: its name, type, labels, the values of its fixed labels, and its help text."""
    telemetry = Telemetry(structlog.wrap_logger(structlog.ReturnLogger()), time.monotonic)
    telemetry.prepare("0", ["key"])
    telemetry.datafile_checked("key", 1.0)
    telemetry.datafile_published("key", revision=1, target=1, trigger="poll", size=1, propagation_s=None)
    rows = []
    for family in text_string_to_metric_families(telemetry.exposition().decode()):
        if not family.name.startswith("datafile_sidecar_"):
            continue
        seen = {label for sample in family.samples for label in sample.labels} - {"le"}
        chosen = {
            label: list(dict.fromkeys(sample.labels[label] for sample in family.samples))
            for label in sorted(seen - {"sdk_key", "version"})
        }
        name = f"`{family.name}{'_total' if family.type == 'counter' else ''}`"
        rows.append(
            (name, family.type, ", ".join(f"`{label}`" for label in sorted(seen)), chosen, family.documentation)
        )
    return rows


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, tuple("---" for _ in head), *rows))


def _between(name: str) -> re.Pattern[str]:
    return re.compile(rf"(<!-- {name} -->\n)(.*?)(<!-- end -->)", re.DOTALL)


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit(f"usage: python -m tests.contract.generated --write\n\n{__doc__}")
    print(*write() or ["nothing has changed"], sep="\n")
