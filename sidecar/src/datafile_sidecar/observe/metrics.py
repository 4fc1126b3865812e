"""The Prometheus metrics, in a registry of their own. Every label's values come from a fixed set, never from a request."""

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, disable_created_metrics

from datafile_sidecar.core import fetch_error
from datafile_sidecar.core.state import Trigger

# The values of the label `outcome` of each metric that has it.
OUTCOMES: Final = {
    "webhooks": (
        "accepted",
        "ignored",
        "malformed",
        "unverified",
        "too_large",
        "too_slow",
        "broken_off",
        "no_secret",
        "stopping",
    ),
    "fetches": ("ok", "not_modified", "invalid", *fetch_error.OUTCOMES),
    "relays": ("delivered", "rejected", "timeout", "unreachable", "unresolved", "dropped"),
    "bus_records": ("shared", "changed", "read", "missing", "questioned", "bad", "refused"),
}
# The values of every other label, except for `sdk_key` and `version`.
LABELS: Final[dict[str, tuple[str, ...]]] = {
    "trigger": tuple(Trigger),
    "source": ("cdn", "origin"),
    "reason": ("too_many", "malformed", "silent", "unknown_key"),
    "port": ("webhook", "admin"),
}

_KEY = ["sdk_key"]
_OUTCOME = ["outcome"]
_Seconds = functools.partial(Histogram, buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 600))

# Each metric's type, help text and labels.
METRICS: Final[dict[str, tuple[Callable[..., Counter | Gauge | Histogram], str, list[str]]]] = {
    "revision": (Gauge, "Revision of the datafile on the volume", _KEY),
    "target_revision": (Gauge, "Revision that should be on the volume", _KEY),
    "checked_timestamp_seconds": (Gauge, "When upstream last confirmed the datafile on the volume, Unix time", _KEY),
    "published_timestamp_seconds": (Gauge, "When the datafile was renamed into place, Unix time", _KEY),
    "publishes": (Counter, "Datafiles renamed into place", ["sdk_key", "trigger"]),
    "publish_failures": (Counter, "Datafiles that could not be written", _KEY),
    "webhooks": (Counter, "Webhooks received", _OUTCOME),
    "webhook_delay_seconds": (
        _Seconds,
        "Time from the saving of a change until its webhook came, by Optimizely's clock",
        [],
    ),
    "fetches": (Counter, "Requests for a datafile", ["sdk_key", "source", "outcome"]),
    "refusals": (Counter, "Datafiles from upstream that were older than the one on the volume", _KEY),
    "missed_webhooks": (Counter, "Revisions that a poll found before their webhook came", _KEY),
    "propagation_seconds": (_Seconds, "Time from a webhook's arrival until its datafile was renamed into place", _KEY),
    "relays": (
        Counter,
        "Webhooks relayed to peers, by outcome; one for each peer, and for each name that was not found",
        _OUTCOME,
    ),
    "bus_connected": (Gauge, "Whether the bus can be read and takes writes: 1 or 0; NaN without a bus", []),
    "bus_records": (
        Counter,
        "Datafiles shared, received by a change or read whole, and bus records that were missing, questioned or rejected",
        _OUTCOME,
    ),
    "spared_polls": (Counter, "Polls skipped because another pod had just polled", _KEY),
    "workers": (Gauge, "App processes that report which revision they use", _KEY),
    "worker_revision_min": (Gauge, "Lowest revision that a worker uses; NaN without workers", _KEY),
    "workers_refusing": (Gauge, "App processes that can't use the published datafile", _KEY),
    "refused_workers": (Counter, "Worker connections refused, by reason", ["reason"]),
    "apply_seconds": (_Seconds, "Time from the rename of a datafile into place until a worker uses it", _KEY),
    "dropped_connections": (Counter, "Connections dropped at a limit of the port", ["port"]),
    "dropped_lines": (Counter, "Log lines dropped because the log was not read fast enough", []),
    "build_info": (Gauge, "Version of the sidecar", ["version"]),
}


class Metrics:
    """The metrics of one sidecar. The methods take a metric's name and, in their order, the values of its labels."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._metrics = {
            name: kind(f"datafile_sidecar_{name}", description, labels, registry=self.registry)
            for name, (kind, description, labels) in METRICS.items()
        }
        self.set("bus_connected", math.nan)

    def prepare(self, version: str, sdk_keys: tuple[str, ...]) -> None:
        """Create every series, so that each shows from the first scrape on. Only what never happened has no time yet."""
        known = {**LABELS, "sdk_key": sdk_keys, "version": (version,)}
        for name, (_, _, labels) in METRICS.items():
            if not name.endswith("_timestamp_seconds"):
                values = (OUTCOMES[name] if label == "outcome" else known[label] for label in labels)
                for combination in itertools.product(*values):
                    self._series(name, combination)
        self.set("build_info", 1, version)
        for sdk_key in sdk_keys:
            self.set("worker_revision_min", math.nan, sdk_key)

    def count(self, name: str, *labels: str, by: int = 1) -> None:
        """Add to a counter."""
        self._series(name, labels).inc(by)

    def set(self, name: str, value: float, *labels: str) -> None:
        """Set a gauge."""
        self._series(name, labels).set(value)

    def observe(self, name: str, value_s: float, *labels: str) -> None:
        """Add a duration to a histogram."""
        self._series(name, labels).observe(value_s)

    def _series(self, name: str, labels: tuple[str, ...]) -> Any:
        return self._metrics[name].labels(*labels) if labels else self._metrics[name]
