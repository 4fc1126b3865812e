"""Every event of the sidecar: one method each, which writes the log line and moves the metrics, so they can't disagree.

Events are `noun.past_participle`. No method takes a secret, a token or a body. What a stranger can cause at will is logged
once and then summed up.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import prometheus_client as prometheus
import structlog

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
BUS_OUTCOMES: Final = ("shared", "questioned", "bad", "refused")
FETCH_OUTCOMES: Final = ("ok", "not_modified", "invalid")
SOURCES: Final = ("cdn", "origin")
_LATENCIES_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 600)
_SUMMARY_S = 10.0
_REPEAT_S = 60.0
_SELDOM_S = 30.0


class Telemetry:
    """The log and the metrics of one sidecar."""

    def __init__(self, logger: structlog.typing.FilteringBoundLogger, clock: Callable[[], float]) -> None:
        """`clock` gives monotonic seconds."""
        self._log = logger
        self._clock = clock
        self._metrics = _Metrics()
        self._rejected: Counter[str] = Counter()
        self._rejected_at = float("-inf")
        self._worker_refused_at: dict[str, float] = {}
        self._repeated: dict[str, tuple[float, int]] = {}

    def prepare(self, version: str, sdk_keys: Iterable[str], triggers: Iterable[str], failures: Sequence[str]) -> None:
        """Show every series from the first scrape on, at zero, so that a rate over the first event is one."""
        self._metrics.prepare(version, tuple(sdk_keys), tuple(triggers), (*FETCH_OUTCOMES, *failures))

    def exposition(self) -> bytes:
        """All metrics, in Prometheus' text format."""
        return prometheus.generate_latest(self._metrics.registry)

    # The process

    def sidecar_started(self, version: str, sdk_keys: Sequence[str], directory: str) -> None:
        self._log.info("sidecar.started", version=version, sdk_keys=list(sdk_keys), directory=directory)

    def sidecar_stopping(self, signal: str) -> None:
        self._log.info("sidecar.stopping", signal=signal)

    def sidecar_stopped(self) -> None:
        self._log.info("sidecar.stopped")

    def sidecar_failed(self, error: Exception) -> None:
        self._log.error("sidecar.failed", reason=repr(error), exc_info=error, consequence="the process ends")

    def webhook_listening(self, address: str, port: int) -> None:
        self._log.info("webhook.listening", address=address, port=port)

    def admin_listening(self, address: str, port: int) -> None:
        self._log.info("admin.listening", address=address, port=port)

    def setting_ignored(self, name: str, nearest: str | None) -> None:
        self._log.warning("setting.ignored", name=name, reason="no such setting", nearest=nearest)

    def volume_created(self, directory: str) -> None:
        self._log.warning(
            "volume.created", directory=directory, reason="there was no such directory; is the volume mounted?"
        )

    def volume_cleaned(self, names: Sequence[str]) -> None:
        self._log.info("volume.cleaned", removed=list(names))

    def cleaning_failed(self, reason: str) -> None:
        self._log.warning("cleaning.failed", reason=reason)

    # Credentials

    def webhook_disabled(self) -> None:
        self._log.warning(
            "webhook.disabled",
            reason="no webhook secret is configured: the endpoint answers 503, and updates arrive by polling only",
            mend="set DATAFILE_WEBHOOK_SECRETS_PATH",
        )

    def secret_trimmed(self, name: str) -> None:
        self._log.warning("secret.trimmed", name=name, reason="white space around a secret is no part of it")

    def credentials_changed(self, kind: str, count: int) -> None:
        self._log.info("credentials.changed", kind=kind, count=count)

    def credentials_failed(self, kind: str, reason: str) -> None:
        self._log.error("credentials.failed", kind=kind, reason=reason, consequence="those read before stay in use")

    # Webhooks

    def webhook_accepted(
        self, sdk_keys: Sequence[str], trigger: str, revision: int | None, environment: str | None
    ) -> None:
        self._metrics.webhooks.labels("accepted").inc()
        self._log.info(
            "webhook.accepted",
            sdk_keys=list(sdk_keys),
            trigger=trigger,
            revision=revision,
            environment=_short(environment),
        )

    def webhook_ignored(self, reason: str) -> None:
        self._metrics.webhooks.labels("ignored").inc()
        self._log.info("webhook.ignored", reason=reason)

    def webhook_rejected(self, outcome: str, reason: str) -> None:
        """Anybody can cause these: the first is logged at once, those of the next seconds in one line."""
        self._metrics.webhooks.labels(outcome).inc()
        if self._clock() - self._rejected_at < _SUMMARY_S:
            self._rejected[outcome] += 1
            return
        self.summarise()
        self._rejected_at = self._clock()
        self._log.warning("webhook.rejected", outcome=outcome, reason=_short(reason))

    def summarise(self) -> None:
        """Write what was held back, if anything was and its time has come."""
        if self._rejected and self._clock() - self._rejected_at >= _SUMMARY_S:
            self._log.warning("webhook.rejected", more=dict(self._rejected))
            self._rejected.clear()

    def webhook_relayed(self, outcomes: Mapping[str, int]) -> None:
        """`outcomes` says how many peers were told, and how it went with those that were not."""
        for outcome, count in outcomes.items():
            self._metrics.relays.labels(outcome).inc(count)
        log = self._log.info if set(outcomes) <= {"delivered"} else self._log.warning
        log("webhook.relayed", outcomes=dict(outcomes))

    def target_changed(self, sdk_key: str, revision: int) -> None:
        self._metrics.target_revision.labels(sdk_key).set(revision)

    def webhook_overdue(self, sdk_key: str, revision: int, have: int | None, waited_s: float) -> None:
        self._log.warning("webhook.overdue", sdk_key=sdk_key, revision=revision, have=have, waited_s=round(waited_s, 1))

    def webhook_missed(self, sdk_key: str, revision: int) -> None:
        self._metrics.missed_webhooks.labels(sdk_key).inc()
        self._log.warning("webhook.missed", sdk_key=sdk_key, revision=revision, reason="a poll found it first")

    # The bus

    def bus_connected(self, address: str) -> None:
        self._metrics.bus_connected.set(1)
        self._repeated.pop("bus.disconnected", None)
        self._log.info("bus.connected", address=address)

    def bus_disconnected(self, reason: str, wait_s: float) -> None:
        """`reason` names the broker. One that is gone is mentioned at once, and then twice a minute."""
        self._metrics.bus_connected.set(0)
        self._seldom("bus.disconnected", reason=_short(reason), wait_s=round(wait_s, 2))

    def bus_refused(self, reason: str) -> None:
        self._metrics.bus_records.labels("refused").inc()
        self._seldom("bus.refused", reason=_short(reason))

    def bus_record_shared(self, sdk_key: str, revision: int) -> None:
        self._metrics.bus_records.labels("shared").inc()
        self._log.info("bus_record.shared", sdk_key=sdk_key, revision=revision)

    def bus_record_rejected(self, sdk_key: str, where: str, reason: str) -> None:
        """Whoever can write to the bus can cause these without end. `where` is `message` or `value`."""
        self._metrics.bus_records.labels("bad").inc()
        self._seldom("bus_record.rejected", sdk_key=sdk_key, where=where, reason=_short(reason))

    def bus_record_questioned(self, sdk_key: str, offered: int, have: int | None) -> None:
        self._metrics.bus_records.labels("questioned").inc()
        reason = "other pods say that upstream went back; it is asked"
        self._seldom("bus_record.questioned", sdk_key=sdk_key, offered=offered, have=have, reason=reason)

    def poll_spared(self, sdk_key: str) -> None:
        self._metrics.spared_polls.labels(sdk_key).inc()
        self._log.debug("poll.spared", sdk_key=sdk_key, reason="another pod has just made it")

    def _seldom(self, event: str, **fields: object) -> None:
        """Log what may happen all the time at most twice a minute, with how often it happened meanwhile."""
        at, more = self._repeated.get(event, (float("-inf"), 0))
        if self._clock() - at < _SELDOM_S:
            self._repeated[event] = at, more + 1
            return
        self._repeated[event] = self._clock(), 0
        self._log.warning(event, **fields, **({"more": more} if more else {}))

    # Workers

    def workers_unheard(self, reason: str) -> None:
        self._log.warning(
            "workers.unheard",
            reason=reason,
            consequence="datafiles are published all the same, but nobody can tell which process decides by what",
        )

    def worker_refused(self, reason: str) -> None:
        """A process of the app can cause these without end: each reason is logged once in a while."""
        self._metrics.refused_workers.labels(reason).inc()
        now = self._clock()
        if now - self._worker_refused_at.get(reason, float("-inf")) >= _REPEAT_S:
            self._worker_refused_at[reason] = now
            self._log.warning("worker.refused", reason=reason)

    def workers_counted(self, sdk_key: str, count: int, oldest: int | None) -> None:
        """`oldest` is the lowest revision that one decides by, None where there are no workers."""
        self._metrics.workers.labels(sdk_key).set(count)
        self._metrics.worker_revision_min.labels(sdk_key).set(math.nan if oldest is None else oldest)

    def datafile_applied(self, sdk_key: str, worker: Mapping[str, object], apply_s: float) -> None:
        """`worker` names the process that decides by the published revision now, `apply_s` after it was published."""
        self._metrics.apply.labels(sdk_key).observe(apply_s)
        self._log.info("datafile.applied", sdk_key=sdk_key, **worker, apply_s=round(apply_s, 4))

    # Fetches

    def fetch_succeeded(self, sdk_key: str, source: str, outcome: str, took_s: float) -> None:
        self._metrics.fetches.labels(sdk_key, source, outcome).inc()
        self._log.debug("fetch.succeeded", sdk_key=sdk_key, source=source, outcome=outcome, took_s=round(took_s, 3))

    def fetch_failed(self, sdk_key: str, source: str, outcome: str, reason: str, wait_s: float) -> None:
        self._metrics.fetches.labels(sdk_key, source, outcome).inc()
        self._log.warning(
            "fetch.failed",
            sdk_key=sdk_key,
            source=source,
            outcome=outcome,
            reason=_short(reason),
            wait_s=round(wait_s, 2),
        )

    def datafile_refused(self, sdk_key: str, source: str, served: int, have: int | None) -> None:
        self._log.info(
            "datafile.refused", sdk_key=sdk_key, source=source, served=served, have=have, reason="it is older"
        )

    # The volume

    def datafile_loaded(self, sdk_key: str, revision: int, checked: float | None) -> None:
        self._observed(sdk_key, revision, revision)
        if checked is not None:
            self._metrics.checked.labels(sdk_key).set(checked)
        self._log.info("datafile.loaded", sdk_key=sdk_key, revision=revision)

    def datafile_unusable(self, sdk_key: str, origin: str, reason: str) -> None:
        self._log.warning("datafile.unusable", sdk_key=sdk_key, origin=origin, reason=_short(reason))

    def datafile_lost(self, sdk_key: str) -> None:
        self._log.warning("datafile.lost", sdk_key=sdk_key, reason="somebody removed or replaced the published file")

    def datafile_checked(self, sdk_key: str, at: float | None = None) -> None:
        """`at` is when upstream confirmed what is on the volume, in Unix seconds; None where it just did."""
        gauge = self._metrics.checked.labels(sdk_key)
        gauge.set_to_current_time() if at is None else gauge.set(at)

    def datafile_published(
        self, sdk_key: str, *, revision: int, target: int, trigger: str, size: int, propagation_s: float | None
    ) -> None:
        """`propagation_s` is the time since the webhook that announced the revision, None where none did."""
        self._observed(sdk_key, revision, target)
        self._metrics.published.labels(sdk_key).set_to_current_time()
        self._metrics.publishes.labels(sdk_key, trigger).inc()
        if propagation_s is not None:
            self._metrics.propagation.labels(sdk_key).observe(propagation_s)
        took_s = None if propagation_s is None else round(propagation_s, 4)
        self._log.info(
            "datafile.published", sdk_key=sdk_key, revision=revision, trigger=trigger, size=size, propagation_s=took_s
        )

    def datafile_rolled_back(self, sdk_key: str, revision: int, left: int | None) -> None:
        self._log.warning(
            "datafile.rolled_back",
            sdk_key=sdk_key,
            revision=revision,
            left=left,
            reason="upstream insists on the older one",
        )

    def publish_failed(self, sdk_key: str, reason: str, wait_s: float) -> None:
        self._metrics.publish_failures.labels(sdk_key).inc()
        self._log.error("publish.failed", sdk_key=sdk_key, reason=_short(reason), wait_s=round(wait_s, 2))

    def _observed(self, sdk_key: str, revision: int, target: int) -> None:
        self._metrics.revision.labels(sdk_key).set(revision)
        self._metrics.target_revision.labels(sdk_key).set(target)


class _Metrics:
    """The metrics, in a registry of their own. Every label's values come from a fixed set."""

    def __init__(self) -> None:
        prometheus.disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = prometheus.CollectorRegistry()
        prometheus.ProcessCollector(registry=self.registry)
        self.revision = self._gauge("revision", "Revision of the datafile on the volume")
        self.target_revision = self._gauge("target_revision", "Revision that should be on the volume")
        self.checked = self._gauge(
            "checked_timestamp_seconds", "When upstream last confirmed what is on the volume, Unix time"
        )
        self.published = self._gauge(
            "published_timestamp_seconds", "When the datafile was renamed into place, Unix time"
        )
        self.publishes = self._counter("publishes", "Datafiles renamed into place", "sdk_key", "trigger")
        self.publish_failures = self._counter("publish_failures", "Datafiles that could not be written", "sdk_key")
        self.webhooks = self._counter("webhooks", "Webhooks received", "outcome")
        self.fetches = self._counter("fetches", "Requests for a datafile", "sdk_key", "source", "outcome")
        self.missed_webhooks = self._counter(
            "missed_webhooks", "Revisions that a poll found before any webhook", "sdk_key"
        )
        self.propagation = prometheus.Histogram(
            "datafile_sidecar_propagation_seconds",
            "Webhook received until its datafile was renamed into place",
            ("sdk_key",),
            buckets=_LATENCIES_S,
            registry=self.registry,
        )
        self.relays = self._counter("relays", "Webhooks posted to a peer, or that should have been", "outcome")
        self.bus_connected = prometheus.Gauge(
            "datafile_sidecar_bus_connected", "Whether news comes by the bus: 1 or 0", registry=self.registry
        )
        self.bus_records = self._counter(
            "bus_records", "Datafiles told to others by the bus, or come by it and doubted", "outcome"
        )
        self.spared_polls = self._counter("spared_polls", "Polls that another pod made in our place", "sdk_key")
        self.workers = self._gauge("workers", "Processes of the app that say which revision they decide by")
        self.worker_revision_min = self._gauge(
            "worker_revision_min", "Lowest revision that a worker decides by; NaN while there is none"
        )
        self.refused_workers = self._counter("refused_workers", "Connections of workers that were refused", "reason")
        self.apply = prometheus.Histogram(
            "datafile_sidecar_apply_seconds",
            "Datafile renamed into place until a worker decides by it",
            ("sdk_key",),
            buckets=_LATENCIES_S,
            registry=self.registry,
        )
        self.build_info = self._gauge("build_info", "Version of the sidecar", "version")

    def prepare(self, version: str, sdk_keys: Sequence[str], triggers: Sequence[str], outcomes: Sequence[str]) -> None:
        self.build_info.labels(version).set(1)
        for outcome in WEBHOOK_OUTCOMES:
            self.webhooks.labels(outcome)
        for outcome in RELAY_OUTCOMES:
            self.relays.labels(outcome)
        for outcome in BUS_OUTCOMES:
            self.bus_records.labels(outcome)
        for reason in WORKER_REFUSALS:
            self.refused_workers.labels(reason)
        for key in sdk_keys:
            self.worker_revision_min.labels(key).set(math.nan)
            for metric in (
                self.revision,
                self.target_revision,
                self.publish_failures,
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

    def _gauge(self, name: str, what: str, *labels: str) -> prometheus.Gauge:
        return prometheus.Gauge(f"datafile_sidecar_{name}", what, labels or ("sdk_key",), registry=self.registry)

    def _counter(self, name: str, what: str, *labels: str) -> prometheus.Counter:
        return prometheus.Counter(f"datafile_sidecar_{name}", what, labels, registry=self.registry)


def _short(text: str | None) -> str | None:
    """Text from outside, no longer than a line should be."""
    return text if text is None or len(text) <= 300 else text[:299] + "…"
