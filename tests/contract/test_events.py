"""The catalogue of events and metrics is complete, and lists nothing that does not exist."""

import ast
import re

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from datafile_sidecar.observe.metrics import Metrics
from datafile_sidecar.observe.telemetry import Telemetry
from tests.contract.generated import ROOT, part_of

_DOCUMENT = (ROOT / "docs/events.md").read_text()
_SOURCES = sorted((ROOT / "sidecar/src/datafile_sidecar").rglob("*.py"))
_TOKEN = re.compile(r"[a-z_]+\.[a-z_]+")


def _logged() -> set[str]:
    """Find every constant in the code that is passed to a logger and looks like an event."""
    tokens = set()
    for path in _SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and re.search(
                r"(_log|_warn_throttled|_logger|\blog)\b", ast.unparse(node.func)
            ):
                constants = [one.value for one in node.args[:2] if isinstance(one, ast.Constant)]
                tokens |= {str(value) for value in constants if _TOKEN.fullmatch(str(value))}
    return tokens


def test_events() -> None:
    """Every line of the log has its event in the catalogue, with a meaning and with what to do."""
    rows = [row.split(" | ") for row in part_of(_DOCUMENT, "events").splitlines()[2:]]
    assert {row[0].strip("| `") for row in rows if "`" in row[0]} == _logged()
    assert [row[0] for row in rows if not (row[2].endswith(".") and row[3].endswith((".", "?")))] == []


def test_metrics() -> None:
    """Every metric that can be scraped is in the catalogue, with an event there that updates it."""
    exported = {
        f"{family.name}{'_total' if family.type == 'counter' else ''}"
        for family in text_string_to_metric_families(generate_latest(Metrics().registry).decode())
        if family.name.startswith("datafile_sidecar_")
    }
    listed = set(re.findall(r"^\| `(datafile_sidecar_\w+)` ", part_of(_DOCUMENT, "metrics"), re.MULTILINE))
    moved = set(re.findall(r"`(datafile_sidecar_\w+)`", part_of(_DOCUMENT, "events")))
    assert listed == exported
    assert moved == exported - {"datafile_sidecar_build_info"}


def test_docstrings() -> None:
    """The catalogue is made from the docstrings, so each of them says what to do."""
    helpers = {"prepare", "exposition", "summarise"}
    events = [method for name, method in vars(Telemetry).items() if not name.startswith("_") and name not in helpers]
    assert [method.__name__ for method in events if "→" not in (method.__doc__ or "")] == []
