"""Every event of the sidecar: one method each, which writes the log line and moves the metrics, so they can't disagree.

Events are `noun.past_participle`. No method takes a secret, a token or a body. What a stranger can cause at will is logged
once and then summed up. Each docstring says what the event means and, after the arrow, what to do: `docs/events.md` is made
from them, which is why all of them stand in one file.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import structlog

from datafile_sidecar.observe.log_throttle import Seldom
from datafile_sidecar.observe.metrics import FETCH_OUTCOMES, Metrics

_SUMMARY_S = 10.0
_REPEAT_S = 60.0
_SELDOM_S = 30.0


class Telemetry:
    """The log and the metrics of one sidecar."""

    def __init__(
        self,
        logger: structlog.typing.FilteringBoundLogger,
        clock: Callable[[], float],
        take_dropped: Callable[[], int] = lambda: 0,
    ) -> None:
        """`clock` gives monotonic seconds; `take_dropped` how many lines the log has lost since it was asked last."""
        self._log = logger
        self._clock = clock
        self._take_dropped = take_dropped
        self._metrics = Metrics()
        self._rejected: Counter[str] = Counter()
        self._rejected_at = float("-inf")
        self._told = Seldom()

    def prepare(self, version: str, sdk_keys: Iterable[str], triggers: Iterable[str], failures: Sequence[str]) -> None:
        """Show every series from the first scrape on, at zero, so that a rate over the first event is one."""
        self._metrics.prepare(version, tuple(sdk_keys), tuple(triggers), (*FETCH_OUTCOMES, *failures))

    def exposition(self) -> bytes:
        """All metrics, in Prometheus' text format."""
        return self._metrics.exposition()

    # The process

    def sidecar_started(self, version: str, sdk_keys: Sequence[str], directory: str) -> None:
        """The process is up and holds its volume. → Nothing."""
        self._log.info("sidecar.started", version=version, sdk_keys=list(sdk_keys), directory=directory)

    def sidecar_stopping(self, signal: str) -> None:
        """A signal asks the process to end; it is unready from now on. → Nothing, unless nobody meant it."""
        self._log.info("sidecar.stopping", signal=signal)

    def sidecar_stopped(self) -> None:
        """The process has ended in order. → Nothing."""
        self._log.info("sidecar.stopped")

    def sidecar_failed(self, error: Exception) -> None:
        """A part of the process failed that never should, so that the process ends.
        → See that it is started again, and report the exception.
        """
        self._log.error("sidecar.failed", reason=repr(error), exc_info=error, consequence="the process ends")

    def webhook_listening(self, address: str, port: int) -> None:
        """The webhook port is open at this address. → Nothing."""
        self._log.info("webhook.listening", address=address, port=port)

    def admin_listening(self, address: str, port: int) -> None:
        """The admin port is open at this address. → Nothing."""
        self._log.info("admin.listening", address=address, port=port)

    def lines_dropped(self, count: int) -> None:
        """So many lines of the log were left out, for whoever reads it did not keep up.
        → See why: a container runtime that hangs, or a full disk on the node?
        """
        self._metrics.dropped_lines.inc(count)
        self._log.warning("lines.dropped", count=count, reason="the log is not read fast enough")

    def connection_dropped(self, port: str) -> None:
        """A port had too many connections, so the oldest, which had not sent a whole request, gave way; told at once and
        then twice a minute.
        → For `webhook`, limit the rate at the Ingress: whoever opens them can crowd a webhook out, which polling then heals.
        """
        self._metrics.dropped_connections.labels(port).inc()
        self._seldom("connection.dropped", port=port, reason="there are too many, and it was the oldest")

    def setting_ignored(self, name: str, nearest: str | None) -> None:
        """A variable that begins like ours means nothing here.
        → Rename it to the nearest, if that is meant, or remove it.
        """
        self._log.warning("setting.ignored", name=name, reason="no such setting", nearest=nearest)

    def volume_created(self, directory: str) -> None:
        """The directory was not there and has been made.
        → In a pod, mount the shared volume at it: no other container sees this one.
        """
        self._log.warning(
            "volume.created", directory=directory, reason="there was no such directory; is the volume mounted?"
        )

    def volume_cleaned(self, names: Sequence[str]) -> None:
        """Temporary files of a writer that was killed have been removed. → Nothing."""
        self._log.info("volume.cleaned", removed=list(names))

    def cleaning_failed(self, reason: str) -> None:
        """Leftovers could not be removed.
        → Look at the rights on the volume; `datafile-sidecar check` says more.
        """
        self._log.warning("cleaning.failed", reason=reason)

    # Credentials

    def webhook_disabled(self) -> None:
        """There is no webhook secret, so webhooks are answered with 503 and updates come by polling.
        → Set DATAFILE_WEBHOOK_SECRETS_PATH, unless polling is meant.
        """
        self._log.warning(
            "webhook.disabled",
            reason="no webhook secret is configured: the endpoint answers 503, and updates arrive by polling only",
            mend="set DATAFILE_WEBHOOK_SECRETS_PATH",
        )

    def secret_trimmed(self, name: str) -> None:
        """White space around a secret is passed over.
        → Nothing; a secret that really begins or ends in white space can't be used.
        """
        self._log.warning("secret.trimmed", name=name, reason="white space around a secret is no part of it")

    def credentials_changed(self, kind: str, count: int) -> None:
        """Mounted secrets or tokens have been read anew. → Nothing, unless nobody rotated them."""
        self._log.info("credentials.changed", kind=kind, count=count)

    def credentials_failed(self, kind: str, reason: str) -> None:
        """Mounted secrets or tokens can't be read any more; those read before stay in use.
        → Mend what the reason names, or a revoked secret goes on working.
        """
        self._log.error("credentials.failed", kind=kind, reason=reason, consequence="those read before stay in use")

    # Webhooks

    def webhook_accepted(
        self, sdk_keys: Sequence[str], trigger: str, revision: int | None, environment: str | None
    ) -> None:
        """A webhook is verified and has woken the loop of these keys. → Nothing."""
        self._metrics.webhooks.labels("accepted").inc()
        self._log.info(
            "webhook.accepted",
            sdk_keys=list(sdk_keys),
            trigger=trigger,
            revision=revision,
            environment=_short(environment),
        )

    def webhook_ignored(self, reason: str) -> None:
        """A webhook is verified and is no news here.
        → Nothing; it may be meant for another environment or another pod may have been first.
        """
        self._metrics.webhooks.labels("ignored").inc()
        self._log.info("webhook.ignored", reason=reason)

    def webhook_rejected(self, outcome: str, reason: str) -> None:
        """A webhook was not taken; anybody can cause this, so the first is logged at once and those of the next
        seconds as one line with `more`.
        → For `unverified`, compare the secret with the one in Optimizely's settings.
        """
        self._metrics.webhooks.labels(outcome).inc()
        if self._clock() - self._rejected_at < _SUMMARY_S:
            self._rejected[outcome] += 1
            return
        self.summarise()
        self._rejected_at = self._clock()
        self._log.warning("webhook.rejected", outcome=outcome, reason=_short(reason))

    def summarise(self) -> None:
        """Write what was held back, if anything was and its time has come, and how much of the log nobody took."""
        if dropped := self._take_dropped():
            self.lines_dropped(dropped)
        if self._rejected and self._clock() - self._rejected_at >= _SUMMARY_S:
            self._log.warning("webhook.rejected", more=dict(self._rejected))
            self._rejected.clear()

    def webhook_relayed(self, outcomes: Mapping[str, int]) -> None:
        """The peers have been told of a webhook; `outcomes` counts how that went.
        → Where some were not reached, look at `peers` in `/status`: they will find out by polling.
        """
        for outcome, count in outcomes.items():
            self._metrics.relays.labels(outcome).inc(count)
        log = self._log.info if set(outcomes) <= {"delivered"} else self._log.warning
        log("webhook.relayed", outcomes=dict(outcomes))

    def target_changed(self, sdk_key: str, revision: int) -> None:
        """A webhook has raised the revision that should be on the volume, or it was given up; no line, only the
        metric.
        → Nothing.
        """
        self._metrics.target_revision.labels(sdk_key).set(revision)

    def webhook_overdue(self, sdk_key: str, revision: int, have: int | None, waited_s: float) -> None:
        """An announced revision did not come within 10 minutes; polling goes on.
        → Ask Optimizely's status page; if other pods have it, compare what the CDN gives them.
        """
        self._log.warning("webhook.overdue", sdk_key=sdk_key, revision=revision, have=have, waited_s=round(waited_s, 1))

    def webhook_missed(self, sdk_key: str, revision: int) -> None:
        """A poll found a revision that no webhook had announced, though webhooks used to come.
        → If it repeats, look at the webhook in Optimizely's settings, at the Ingress, and for `webhook.rejected`.
        """
        self._metrics.missed_webhooks.labels(sdk_key).inc()
        self._log.warning("webhook.missed", sdk_key=sdk_key, revision=revision, reason="a poll found it first")

    # The bus

    def bus_connected(self, address: str) -> None:
        """The bus is connected, has been read, and tells of news. → Nothing."""
        self._metrics.bus_connected.set(1)
        self._told.forget("bus.disconnected")
        self._log.info("bus.connected", address=address)

    def bus_disconnected(self, reason: str, wait_s: float) -> None:
        """The bus is lost and will be tried again; told at once and then twice a minute.
        → Look at the broker. Webhooks and polls go on without it.
        """
        self._metrics.bus_connected.set(0)
        self._seldom("bus.disconnected", reason=_short(reason), wait_s=round(wait_s, 2))

    def bus_refused(self, reason: str) -> None:
        """The broker did not do what it was asked, for want of memory or of a permission.
        → Compare its ACL with docs/operations.md; look at its memory.
        """
        self._metrics.bus_records.labels("refused").inc()
        self._seldom("bus.refused", reason=_short(reason))

    def bus_record_shared(self, sdk_key: str, revision: int) -> None:
        """This pod has put a datafile on the bus, for all others to take. → Nothing."""
        self._metrics.bus_records.labels("shared").inc()
        self._log.info("bus_record.shared", sdk_key=sdk_key, revision=revision)

    def bus_record_rejected(self, sdk_key: str, where: str, reason: str) -> None:
        """What stands on the bus, or was said there, can't be used.
        → Find out who else writes to it: whoever can may change flags.
        """
        self._metrics.bus_records.labels("bad").inc()
        self._seldom("bus_record.rejected", sdk_key=sdk_key, where=where, reason=_short(reason))

    def bus_record_questioned(self, sdk_key: str, offered: int, have: int | None) -> None:
        """Other pods say that upstream went back to an older revision; upstream is asked before that is believed.
        → Nothing; see whether somebody restored an old state in Optimizely.
        """
        self._metrics.bus_records.labels("questioned").inc()
        reason = "other pods say that upstream went back; it is asked"
        self._seldom("bus_record.questioned", sdk_key=sdk_key, offered=offered, have=have, reason=reason)

    def poll_spared(self, sdk_key: str) -> None:
        """Another pod has just polled, so this one did not. → Nothing."""
        self._metrics.spared_polls.labels(sdk_key).inc()
        self._log.debug("poll.spared", sdk_key=sdk_key, reason="another pod has just made it")

    def _seldom(self, event: str, **fields: object) -> None:
        """Log what may happen all the time at most twice a minute, with how often it happened meanwhile."""
        if (more := self._told.untold(event, self._clock(), _SELDOM_S)) is not None:
            self._log.warning(event, **fields, **({"more": more} if more else {}))

    # Workers

    def workers_unheard(self, reason: str) -> None:
        """There can be no socket for the workers on the volume, so nobody can tell which process decides by what;
        datafiles are published all the same.
        → Mend what the reason names.
        """
        self._log.warning(
            "workers.unheard",
            reason=reason,
            consequence="datafiles are published all the same, but nobody can tell which process decides by what",
        )

    def worker_refused(self, reason: str) -> None:
        """A connection on `sidecar.sock` was turned away; each reason is told once a minute at most.
        → `unknown_key`: compare DATAFILE_SDK_KEYS of app and sidecar. `too_many`: more than 256 processes. Else see
        who connects there.
        """
        self._metrics.refused_workers.labels(reason).inc()
        if self._told.untold(f"worker.refused {reason}", self._clock(), _REPEAT_S) is not None:
            self._log.warning("worker.refused", reason=reason)

    def workers_counted(self, sdk_key: str, count: int, oldest: int | None) -> None:
        """How many workers there are, and the lowest revision that one decides by; no line, only the metrics.
        → Nothing.
        """
        self._metrics.workers.labels(sdk_key).set(count)
        self._metrics.worker_revision_min.labels(sdk_key).set(math.nan if oldest is None else oldest)

    def datafile_applied(self, sdk_key: str, worker: Mapping[str, object], apply_s: float) -> None:
        """A process of the app decides by the published revision now. → Nothing."""
        self._metrics.apply.labels(sdk_key).observe(apply_s)
        self._log.info("datafile.applied", sdk_key=sdk_key, **worker, apply_s=round(apply_s, 4))

    # Fetches

    def fetch_succeeded(self, sdk_key: str, source: str, outcome: str, took_s: float) -> None:
        """Upstream answered with a valid datafile, or that nothing has changed. → Nothing."""
        self._metrics.fetches.labels(sdk_key, source, outcome).inc()
        self._log.debug("fetch.succeeded", sdk_key=sdk_key, source=source, outcome=outcome, took_s=round(took_s, 3))

    def fetch_failed(self, sdk_key: str, source: str, outcome: str, reason: str, wait_s: float) -> None:
        """A datafile could not be fetched, or what came is none; it is tried again after `wait_s`.
        → Do what the reason says; `datafile-sidecar check` looks closer.
        """
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
        """Upstream served an older revision than the one on the volume, which stays.
        → Nothing: caches differ for a while. If it is meant, it is believed after DATAFILE_ROLLBACK_AFTER_S.
        """
        self._metrics.refusals.labels(sdk_key).inc()
        self._log.info(
            "datafile.refused", sdk_key=sdk_key, source=source, served=served, have=have, reason="it is older"
        )

    # The volume

    def datafile_loaded(self, sdk_key: str, revision: int, checked: float | None) -> None:
        """A valid datafile was already there at the start. → Nothing."""
        self._observed(sdk_key, revision, revision)
        if checked is not None:
            self._metrics.checked.labels(sdk_key).set(checked)
        self._log.info("datafile.loaded", sdk_key=sdk_key, revision=revision)

    def datafile_unusable(self, sdk_key: str, origin: str, reason: str) -> None:
        """A file on the volume, or a bootstrap file, can't be used.
        → Replace the bootstrap file; one on the volume is replaced by the next good fetch.
        """
        self._log.warning("datafile.unusable", sdk_key=sdk_key, origin=origin, reason=_short(reason))

    def datafile_lost(self, sdk_key: str) -> None:
        """Somebody has removed or replaced the published file; it is fetched anew.
        → Find out who else writes to the volume: the app's mount should be read-only.
        """
        self._log.warning("datafile.lost", sdk_key=sdk_key, reason="somebody removed or replaced the published file")

    def datafile_checked(self, sdk_key: str, at: float | None = None) -> None:
        """Upstream has confirmed what is on the volume; no line, only the metric. → Nothing."""
        gauge = self._metrics.checked.labels(sdk_key)
        gauge.set_to_current_time() if at is None else gauge.set(at)

    def datafile_published(
        self, sdk_key: str, *, revision: int, target: int, trigger: str, size: int, propagation_s: float | None
    ) -> None:
        """A datafile was renamed into place; `trigger` says by which way it came, `propagation_s` how long after its
        webhook.
        → Nothing.
        """
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
        """Upstream has insisted on an older revision for so long that it is published.
        → Nothing, if somebody restored an old state in Optimizely; else ask who did.
        """
        self._log.warning(
            "datafile.rolled_back",
            sdk_key=sdk_key,
            revision=revision,
            left=left,
            reason="upstream insists on the older one",
        )

    def publish_failed(self, sdk_key: str, reason: str, wait_s: float) -> None:
        """A datafile could not be written; the last one stays, whole, and it is tried again after `wait_s`.
        → See the reason: is the volume full, or mounted read-only?
        """
        self._metrics.publish_failures.labels(sdk_key).inc()
        self._log.error("publish.failed", sdk_key=sdk_key, reason=_short(reason), wait_s=round(wait_s, 2))

    def _observed(self, sdk_key: str, revision: int, target: int) -> None:
        self._metrics.revision.labels(sdk_key).set(revision)
        self._metrics.target_revision.labels(sdk_key).set(target)


def _short(text: str | None) -> str | None:
    """Text from outside, no longer than a line should be."""
    return text if text is None or len(text) <= 300 else text[:299] + "…"
