"""Every event: its line in the log, and what Prometheus sees of it."""

import inspect
import io
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from datafile_sidecar.observe import logs
from datafile_sidecar.observe.metrics import LABELS, OUTCOMES
from datafile_sidecar.observe.telemetry import Telemetry

TRIGGERS = ("startup", "webhook", "poll", "peer", "bus", "bootstrap")
METRICS = {
    "revision": {"sdk_key"},
    "target_revision": {"sdk_key"},
    "checked_timestamp_seconds": {"sdk_key"},
    "published_timestamp_seconds": {"sdk_key"},
    "publishes_total": {"sdk_key", "trigger"},
    "publish_failures_total": {"sdk_key"},
    "webhooks_total": {"outcome"},
    "fetches_total": {"sdk_key", "source", "outcome"},
    "missed_webhooks_total": {"sdk_key"},
    "propagation_seconds_count": {"sdk_key"},
    "propagation_seconds_sum": {"sdk_key"},
    "propagation_seconds_bucket": {"sdk_key", "le"},
    "build_info": {"version"},
}


class Recorder:
    """A telemetry with a clock that the test sets, and what it logged and counted."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.stream = io.StringIO()
        self.dropped = [0]
        self.telemetry = Telemetry(
            logs.configure("debug", "json", self.stream),
            lambda: self.now,
            lambda: self.dropped.pop() if self.dropped else 0,
        )
        self.telemetry.prepare("1.2.3", ["KEY1", "KEY2"])

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]

    def samples(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        families = text_string_to_metric_families(self.telemetry.exposition().decode())
        return {
            (sample.name.removeprefix("datafile_sidecar_"), frozenset(sample.labels.items())): sample.value
            for family in families
            for sample in family.samples
            if sample.name.startswith("datafile_sidecar_")
        }

    def value(self, name: str, **labels: str) -> float | None:
        return self.samples().get((name, frozenset(labels.items())))


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


def publish(
    telemetry: Telemetry, revision: int = 43, trigger: str = "webhook", propagation_s: float | None = 0.02
) -> None:
    telemetry.datafile_published(
        "KEY1", revision=revision, target=revision, trigger=trigger, size=9, propagation_s=propagation_s
    )


def test_dropped_lines(recorder: Recorder) -> None:
    """The number of log lines that were dropped is logged once, and counted."""
    recorder.telemetry.summarise()
    recorder.dropped.append(7)
    recorder.telemetry.summarise()
    recorder.telemetry.summarise()
    assert [(line["event"], line["count"]) for line in recorder.lines] == [("lines.dropped", 7)]
    assert recorder.value("dropped_lines_total") == 7


def test_names(recorder: Recorder) -> None:
    """Dashboards and alerts find every documented metric under its name and with its labels."""
    publish(recorder.telemetry)
    recorder.telemetry.datafile_checked("KEY1", time.time())
    exported: dict[str, set[str]] = {}
    for name, labels in recorder.samples():
        exported.setdefault(name, set()).update(label for label, _ in labels)
    assert {name: exported.get(name) for name in METRICS} == METRICS


def test_zero(recorder: Recorder) -> None:
    """Counters are there at zero before anything happens, for each key and outcome, so that the first event makes a rate."""
    assert all(recorder.value("webhooks_total", outcome=outcome) == 0 for outcome in OUTCOMES["webhooks"])
    for key in ("KEY1", "KEY2"):
        assert all(recorder.value("publishes_total", sdk_key=key, trigger=trigger) == 0 for trigger in TRIGGERS)
        assert recorder.value("missed_webhooks_total", sdk_key=key) == 0
        assert recorder.value("propagation_seconds_count", sdk_key=key) == 0
        for source in LABELS["source"]:
            for outcome in (*OUTCOMES["fetches"], "timeout"):
                assert recorder.value("fetches_total", sdk_key=key, source=source, outcome=outcome) == 0


def test_never_checked(recorder: Recorder) -> None:
    """What never happened has no time: an alert on its age must not see 1970."""
    assert recorder.value("checked_timestamp_seconds", sdk_key="KEY1") is None
    assert recorder.value("published_timestamp_seconds", sdk_key="KEY1") is None


def test_publish(recorder: Recorder) -> None:
    """A published datafile shows as revision, target, time, count by its way, and delay since its webhook."""
    publish(recorder.telemetry, 43)
    publish(recorder.telemetry, 44, "poll", None)
    assert recorder.value("revision", sdk_key="KEY1") == 44
    assert recorder.value("target_revision", sdk_key="KEY1") == 44
    assert recorder.value("publishes_total", sdk_key="KEY1", trigger="webhook") == 1
    assert recorder.value("publishes_total", sdk_key="KEY1", trigger="poll") == 1
    assert recorder.value("propagation_seconds_count", sdk_key="KEY1") == 1
    assert recorder.value("propagation_seconds_bucket", sdk_key="KEY1", le="0.025") == 1
    assert recorder.value("propagation_seconds_bucket", sdk_key="KEY1", le="0.01") == 0
    assert [(line["event"], line["revision"]) for line in recorder.lines] == [
        ("datafile.published", 43),
        ("datafile.published", 44),
    ]


def test_lagging(recorder: Recorder) -> None:
    """An announced revision that is not there yet shows as a target above the revision."""
    recorder.telemetry.datafile_loaded("KEY1", 42, None)
    recorder.telemetry.target_changed("KEY1", 43)
    assert (recorder.value("revision", sdk_key="KEY1"), recorder.value("target_revision", sdk_key="KEY1")) == (42, 43)


def test_flood(recorder: Recorder) -> None:
    """A minute of 100 bad webhooks a second is counted to the last and makes a dozen lines that add up."""
    for tick in range(6000):
        recorder.now = 1000 + tick / 100
        if tick % 1000 == 999:
            recorder.telemetry.summarise()
        recorder.telemetry.webhook_rejected("unverified" if tick % 3 else "too_large", "x")
    recorder.now += 10
    recorder.telemetry.summarise()
    assert recorder.value("webhooks_total", outcome="unverified") == 4000
    assert recorder.value("webhooks_total", outcome="too_large") == 2000
    assert len(recorder.lines) <= 14
    counts = Counter[str]()
    for line in recorder.lines:
        counts.update(line.get("more") or [line["outcome"]])
    assert counts == {"unverified": 4000, "too_large": 2000}


def test_single_rejection(recorder: Recorder) -> None:
    """The first rejected webhook is logged at once, with its reason; a quiet time adds no line."""
    recorder.telemetry.webhook_rejected("unverified", "the signature is missing or wrong")
    for _ in range(5):
        recorder.now += 10
        recorder.telemetry.summarise()
    [line] = recorder.lines
    assert (line["level"], line["outcome"], line["reason"]) == (
        "warning",
        "unverified",
        "the signature is missing or wrong",
    )


def test_ignored_flood(recorder: Recorder) -> None:
    """A minute of 100 webhooks a second that are no news, most of them repeated, is counted to the last in a dozen lines."""
    for tick in range(6000):
        recorder.now = 1000 + tick / 100
        if tick % 1000 == 999:
            recorder.telemetry.summarise()
        recorder.telemetry.webhook_ignored("received" if tick % 3 else "old", is_repeat=bool(tick % 3))
    recorder.now += 10
    recorder.telemetry.summarise()
    assert recorder.value("webhooks_total", outcome="ignored") == 6000
    assert len(recorder.lines) <= 14
    counts = Counter[str]()
    for line in recorder.lines:
        assert (line["event"], line["level"]) == ("webhook.ignored", "info")
        counts.update(line.get("more") or [line["reason"]])
    assert counts == {"received": 4000, "old": 2000}


def test_repeated_alone(recorder: Recorder) -> None:
    """A repeated webhook makes no line of its own, only a number in the next summary."""
    recorder.telemetry.webhook_ignored("received", is_repeat=True)
    assert recorder.lines == []
    recorder.telemetry.summarise()
    recorder.telemetry.summarise()
    assert [line.get("more") for line in recorder.lines] == [{"received": 1}]


def test_summary_waits(recorder: Recorder) -> None:
    """What was held back is logged when it is due, not before and not twice."""
    for _ in range(3):
        recorder.telemetry.webhook_rejected("unverified", "x")
    recorder.now += 9
    recorder.telemetry.summarise()
    assert len(recorder.lines) == 1
    recorder.now += 1
    recorder.telemetry.summarise()
    recorder.telemetry.summarise()
    assert [line.get("more") for line in recorder.lines] == [None, {"unverified": 2}]


def test_long_text(recorder: Recorder) -> None:
    """Text from outside is cut to the length of a line."""
    recorder.telemetry.fetch_failed("KEY1", "cdn", "timeout", "x" * 100_000, 1.0)
    recorder.telemetry.datafile_unusable("KEY1", "volume", "x" * 100_000)
    assert all(len(line["reason"]) == 300 for line in recorder.lines)


SAMPLES: dict[Any, Any] = {
    str: "word",
    int: 1,
    bool: True,
    float: 1.5,
    int | None: None,
    str | None: None,
    float | None: None,
    Sequence[str]: ("a",),
    Iterable[str]: ("a",),
    Mapping[str, int]: {"a": 1},
    Mapping[str, object]: {"a": "b"},
    Exception: ValueError("x"),
}
EVENTS = {
    name: method
    for name, method in inspect.getmembers(Telemetry, inspect.isfunction)
    if not name.startswith("_") and name not in {"prepare", "exposition", "summarise"}
}


@pytest.mark.parametrize("event", EVENTS.values(), ids=EVENTS.keys())
def test_one_line(recorder: Recorder, event: Callable[..., None]) -> None:
    """Each event is one line at most, called by a constant token, so that a search for it finds every case."""
    parameters = list(inspect.signature(event).parameters.values())[1:]
    sampled = {parameter.name: SAMPLES[parameter.annotation] for parameter in parameters}
    positional = [sampled[p.name] for p in parameters if p.kind is not p.KEYWORD_ONLY]
    event(recorder.telemetry, *positional, **{p.name: sampled[p.name] for p in parameters if p.kind is p.KEYWORD_ONLY})
    assert len(recorder.lines) <= 1
    for line in recorder.lines:
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*\.[a-z]+(_[a-z]+)*", line["event"])
    recorder.telemetry.exposition()
