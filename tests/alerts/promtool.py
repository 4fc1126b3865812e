"""Prometheus' own `promtool`, asked whether an alert would fire had a sidecar gone on for hours as two scrapes show it."""

import json
import re
import shutil
import subprocess
import textwrap
from pathlib import Path
from typing import Any

from tests.alerts.states import Samples, Scrape
from tests.contract.generated import ROOT

PROMTOOL = shutil.which("promtool")
_MANIFEST = ROOT / "k8s/alerts/prometheusrule.yaml"
_STEPS = 8 * 60
_NEVER_SHRINKS = re.compile(r"_(total|count|sum|bucket)(\{|$)")
_MOMENT = re.compile(r"_timestamp_seconds(\{|$)")
_TARGET = 'namespace="shop",job="checkout",pod="checkout-1"'


def rules() -> str:
    """The rule file in the PrometheusRule: what stands under `spec`."""
    return textwrap.dedent(_MANIFEST.read_text().partition("\nspec:\n")[2])


def alerts() -> list[str]:
    """The alerts' names."""
    return re.findall(r"^\s*- alert: (\w+)$", rules(), re.MULTILINE)


def run(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run promtool where its files are."""
    command = [str(PROMTOOL), *arguments]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=60, check=False)


def fired(directory: Path, before: Scrape, after: Scrape) -> set[str]:
    """The alerts that fire within eight hours: gauges stay, counters go on as they did, and so do moments if they moved."""
    (directory / "rules.yaml").write_text(rules())
    series = [
        {"series": _labelled(name), "values": f"{start:g}{slope:+g}x{_STEPS}"}
        for name, (start, slope) in _stretched(before, after).items()
    ]
    names = alerts()
    quiet = [{"eval_time": f"{_STEPS}m", "alertname": name, "exp_alerts": []} for name in names]
    test: dict[str, Any] = {
        "rule_files": ["rules.yaml"],
        "evaluation_interval": "1m",
        "tests": [{"interval": "1m", "input_series": series, "alert_rule_test": quiet}],
    }
    (directory / "test.json").write_text(json.dumps(test))
    done = run(directory, "test", "rules", "test.json")
    loud = set(re.findall(r"alertname: (\w+), time", done.stdout + done.stderr))
    assert (done.returncode == 0) == (not loud), done.stdout + done.stderr
    return loud


def _stretched(before: Scrape, after: Scrape) -> dict[str, tuple[float, float]]:
    """Each series: its value at the beginning, where the clock is at zero, and what it gains in a minute."""
    minute = 60 / (after.at - before.at)
    stretched: dict[str, tuple[float, float]] = {}
    for name, value in after.samples.items():
        if value != value or name.startswith(("process_", "python_")):
            continue
        gained = value - before.samples.get(name, value)
        if _MOMENT.search(name):
            stretched[name] = value - after.at, 60.0 if gained else 0.0
        elif _NEVER_SHRINKS.search(name):
            stretched[name] = value, max(0.0, gained * minute)
        else:
            stretched[name] = value, 0.0
    return stretched


def _labelled(name: str) -> str:
    """The series as Prometheus stores it, with the labels of its target."""
    bare, _, labels = name.partition("{")
    return f"{bare}{{{_TARGET}{',' + labels if labels else '}'}"


def exported(samples: Samples) -> dict[str, dict[str, set[str]]]:
    """Every metric with the values of its labels."""
    labels_of: dict[str, dict[str, set[str]]] = {}
    for name in samples:
        bare, _, labels = name.partition("{")
        known = labels_of.setdefault(bare, {})
        for label, value in re.findall(r'(\w+)="([^"]*)"', labels):
            known.setdefault(label, set()).add(value)
    return labels_of
