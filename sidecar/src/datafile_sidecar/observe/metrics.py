"""The Prometheus metrics, in a registry of their own. Every label's values come from a fixed set, never from a request."""

import math
from collections.abc import Sequence
from typing import Final

import prometheus_client as prometheus

WEBHOOK_OUTCOMES: Final = (
    "accepted",
    "ignored",
    "malformed",
    "unverified",
    "too_large",
    "too_slow",
    "broken_off",
    "no_secret",
)
RELAY_OUTCOMES: Final = ("delivered", "rejected", "timeout", "unreachable", "unresolved", "dropped")
WORKER_REFUSALS: Final = ("too_many", "malformed", "silent", "unknown_key")
PORTS: Final = ("webhook", "admin")
BUS_OUTCOMES: Final = ("shared", "questioned", "bad", "refused")
FETCH_OUTCOMES: Final = ("ok", "not_modified", "invalid")
SOURCES: Final = ("cdn", "origin")
_LATENCIES_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 600)


class Metrics:
    """Every metric, as an attribute."""

    def __init__(self) -> None:
        prometheus.disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = prometheus.CollectorRegistry()
        prometheus.ProcessCollector(registry=self.registry)
        self.revision = self._gauge("revision", "Revision of the datafile on the volume", "sdk_key")
        self.target_revision = self._gauge("target_revision", "Revision that should be on the volume", "sdk_key")
        self.checked = self._gauge(
            "checked_timestamp_seconds", "When upstream last confirmed the datafile on the volume, Unix time", "sdk_key"
        )
        self.published = self._gauge(
            "published_timestamp_seconds", "When the datafile was renamed into place, Unix time", "sdk_key"
        )
        self.publishes = self._counter("publishes", "Datafiles renamed into place", "sdk_key", "trigger")
        self.publish_failures = self._counter("publish_failures", "Datafiles that could not be written", "sdk_key")
        self.webhooks = self._counter("webhooks", "Webhooks received", "outcome")
        self.fetches = self._counter("fetches", "Requests for a datafile", "sdk_key", "source", "outcome")
        self.refusals = self._counter(
            "refusals", "Datafiles from upstream that were older than the one on the volume", "sdk_key"
        )
        self.missed_webhooks = self._counter(
            "missed_webhooks", "Revisions that a poll found before their webhook came", "sdk_key"
        )
        self.propagation = self._histogram(
            "propagation_seconds", "Time from a webhook's arrival until its datafile was renamed into place"
        )
        self.relays = self._counter(
            "relays", "Webhooks relayed to peers, by outcome; one for each peer address", "outcome"
        )
        self.bus_connected = self._gauge("bus_connected", "Whether the bus is connected: 1 or 0; NaN without a bus")
        self.bus_connected.set(math.nan)
        self.bus_records = self._counter(
            "bus_records", "Datafiles shared on the bus, and bus records that were questioned or rejected", "outcome"
        )
        self.spared_polls = self._counter(
            "spared_polls", "Polls skipped because another pod had just polled", "sdk_key"
        )
        self.workers = self._gauge("workers", "App processes that report which revision they use", "sdk_key")
        self.worker_revision_min = self._gauge(
            "worker_revision_min", "Lowest revision that a worker uses; NaN without workers", "sdk_key"
        )
        self.refused_workers = self._counter("refused_workers", "Worker connections refused, by reason", "reason")
        self.apply = self._histogram(
            "apply_seconds", "Time from the rename of a datafile into place until a worker uses it"
        )
        self.dropped_connections = self._counter(
            "dropped_connections", "Connections dropped at the connection limit", "port"
        )
        self.dropped_lines = self._counter(
            "dropped_lines", "Log lines dropped because the log was not read fast enough"
        )
        self.build_info = self._gauge("build_info", "Version of the sidecar", "version")

    def exposition(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return prometheus.generate_latest(self.registry)

    def prepare(self, version: str, sdk_keys: Sequence[str], triggers: Sequence[str], outcomes: Sequence[str]) -> None:
        """Create every series, so that each shows from the first scrape on.

        Args:
            version: Of the sidecar.
            sdk_keys: Values of the label `sdk_key`.
            triggers: Values of the label `trigger` of publishes.
            outcomes: Values of the label `outcome` of fetches.
        """
        self.build_info.labels(version).set(1)
        for counter, values in (
            (self.webhooks, WEBHOOK_OUTCOMES),
            (self.relays, RELAY_OUTCOMES),
            (self.bus_records, BUS_OUTCOMES),
            (self.refused_workers, WORKER_REFUSALS),
            (self.dropped_connections, PORTS),
        ):
            for value in values:
                counter.labels(value)
        for key in sdk_keys:
            self.worker_revision_min.labels(key).set(math.nan)
            for metric in (
                self.revision,
                self.target_revision,
                self.publish_failures,
                self.refusals,
                self.missed_webhooks,
                self.spared_polls,
                self.propagation,
                self.workers,
                self.apply,
            ):
                metric.labels(key)
            for trigger in triggers:
                self.publishes.labels(key, trigger)
            for source in SOURCES:
                for outcome in outcomes:
                    self.fetches.labels(key, source, outcome)

    def _gauge(self, name: str, description: str, *labels: str) -> prometheus.Gauge:
        return prometheus.Gauge(f"datafile_sidecar_{name}", description, labels, registry=self.registry)

    def _counter(self, name: str, description: str, *labels: str) -> prometheus.Counter:
        return prometheus.Counter(f"datafile_sidecar_{name}", description, labels, registry=self.registry)

    def _histogram(self, name: str, description: str) -> prometheus.Histogram:
        return prometheus.Histogram(
            f"datafile_sidecar_{name}", description, ["sdk_key"], buckets=_LATENCIES_S, registry=self.registry
        )
