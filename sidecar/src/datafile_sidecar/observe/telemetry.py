"""Every event of the sidecar: one method each, which writes the log line and updates the metrics, so they can't disagree.

Events are named `noun.past_participle`. No method takes a secret, a token or a body. Events that anyone on the network can
cause are logged once and then summarised. Each docstring says what the event means and, after the arrow, what to do:
`docs/events.md` is generated from them, which is why all of them are in one file.
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from prometheus_client import generate_latest
from structlog.typing import FilteringBoundLogger

from datafile_sidecar.core.display_text import shorten
from datafile_sidecar.observe.log_summary import LogSummary
from datafile_sidecar.observe.log_throttle import LogThrottle
from datafile_sidecar.observe.metrics import Metrics

_SUMMARY_EVERY_S = 10.0
_REFUSED_EVERY_S = 60.0
_WARN_EVERY_S = 30.0
_MAX_CHARS = 300


class Telemetry:
    """The log and the metrics of one sidecar."""

    def __init__(
        self, logger: FilteringBoundLogger, clock: Callable[[], float], take_dropped: Callable[[], int] = lambda: 0
    ) -> None:
        """Create the metrics.

        Args:
            logger: Where the lines go.
            clock: Returns monotonic seconds.
            take_dropped: Returns how many lines the log has dropped since the last call.
        """
        self._log = logger
        self._clock = clock
        self._take_dropped = take_dropped
        self._metrics = Metrics()
        self._rejected = LogSummary(_SUMMARY_EVERY_S)
        self._ignored = LogSummary(_SUMMARY_EVERY_S)
        self._throttle = LogThrottle()

    def prepare(self, version: str, sdk_keys: Iterable[str]) -> None:
        """Create every series at zero, so that a rate includes the first event.

        Args:
            version: Of the sidecar.
            sdk_keys: All SDK keys that are served.
        """
        self._metrics.prepare(version, tuple(sdk_keys))

    def exposition(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._metrics.registry)

    # The process

    def sidecar_started(self, version: str, sdk_keys: Sequence[str], directory: str) -> None:
        """The process is running and has locked its volume. → Nothing."""
        self._log.info("sidecar.started", version=version, sdk_keys=list(sdk_keys), directory=directory)

    def sidecar_stopping(self, signal: str) -> None:
        """A signal asked the process to stop; it is not ready from now on. → Nothing, unless the stop was not intended."""
        self._log.info("sidecar.stopping", signal=signal)

    def sidecar_stopped(self) -> None:
        """The process has stopped cleanly. → Nothing."""
        self._summarise_webhooks(math.inf)
        self._log.info("sidecar.stopped")

    def sidecar_failed(self, error: Exception) -> None:
        """An internal error; the process exits.
        → Check that it is restarted, and report the exception.
        """
        self._log.error("sidecar.failed", reason=repr(error), exc_info=error, consequence="the process exits")

    def webhook_listening(self, address: str, port: int) -> None:
        """The webhook port is open at this address. → Nothing."""
        self._log.info("webhook.listening", address=address, port=port)

    def admin_listening(self, address: str, port: int) -> None:
        """The admin port is open at this address. → Nothing."""
        self._log.info("admin.listening", address=address, port=port)

    def lines_dropped(self, count: int) -> None:
        """Log lines were dropped because the log was not read fast enough; `count` says how many.
        → Find out why: does the container runtime hang, or is the node's disk full?
        """
        self._metrics.count("dropped_lines", by=count)
        self._log.warning("lines.dropped", count=count, reason="the log is not read fast enough")

    def connection_dropped(self, port: str) -> None:
        """A port reached its limit of connections or of memory for them, so one that had not sent a whole request, or not
        taken its answer, was dropped: the oldest, or the one that held most; logged at once and then at most twice a minute.
        → For `webhook`, limit the rate at the Ingress: a flood of connections can delay webhooks until the next poll.
        """
        self._metrics.count("dropped_connections", port)
        self._warn_throttled("connection.dropped", port=port, reason="the port reached its limit")

    def resources_exhausted(self, reason: str) -> None:
        """A connection could not be accepted, for want of file descriptors or memory; logged at once and then at most twice
        a minute.
        → Raise the limit of open files (`ulimit -n`) to 1024 or more, or find out what uses them up on the node.
        """
        self._warn_throttled("resources.exhausted", reason=_short(reason))

    def setting_ignored(self, name: str, nearest: str | None) -> None:
        """An environment variable with the sidecar's prefix is not one of its settings.
        → Rename it to `nearest` if that is what was meant, or remove it.
        """
        self._log.warning("setting.ignored", name=name, reason="no such setting", nearest=nearest)

    def volume_created(self, directory: str) -> None:
        """The directory did not exist and was created.
        → In a pod, mount the shared volume there: other containers can't see this directory.
        """
        reason = "the directory did not exist; is the volume mounted?"
        self._log.warning("volume.created", directory=directory, reason=reason)

    def volume_cleaned(self, names: Sequence[str]) -> None:
        """Temporary files that a killed process had left were removed. → Nothing."""
        self._log.info("volume.cleaned", removed=list(names))

    def cleaning_failed(self, reason: str) -> None:
        """Temporary files that a killed process had left could not be removed.
        → Check the permissions on the volume; `datafile-sidecar check` says more.
        """
        self._log.warning("cleaning.failed", reason=reason)

    # Credentials

    def webhook_disabled(self) -> None:
        """No webhook secret is configured, so webhooks are answered with 503 and updates arrive by polling.
        → Set DATAFILE_WEBHOOK_SECRETS_PATH, unless polling only is intended.
        """
        reason = "no webhook secret is configured: the endpoint answers 503, and updates arrive by polling only"
        self._log.warning("webhook.disabled", reason=reason, action="set DATAFILE_WEBHOOK_SECRETS_PATH")

    def secret_trimmed(self, name: str, what: str) -> None:
        """White space around a secret or an access token, or a byte order mark before it, was removed.
        → For white space, nothing; a secret that really begins or ends with it can't be used. For a byte order mark, write the
        file without one, as Windows tools do when told to (`-Encoding ascii`).
        """
        self._log.warning("secret.trimmed", name=name, reason=f"{what} a secret was removed")

    def credentials_changed(self, kind: str, count: int) -> None:
        """Mounted secrets or tokens have changed and were reloaded. → Nothing, unless the change was not intended."""
        self._log.info("credentials.changed", kind=kind, count=count)

    def credentials_failed(self, kind: str, reason: str) -> None:
        """Mounted secrets or tokens can't be read any more; those read before stay in use.
        → Fix what `reason` names; until then a revoked secret goes on working.
        """
        self._log.error("credentials.failed", kind=kind, reason=reason, consequence="those read before stay in use")

    # Webhooks

    def webhook_accepted(
        self, sdk_keys: Sequence[str], trigger: str, revision: int | None, environment: str | None
    ) -> None:
        """A webhook was verified, and these keys are fetched because of it. → Nothing."""
        self._metrics.count("webhooks", "accepted")
        announced = {"revision": revision, "environment": environment and _short(environment)}
        self._log.info("webhook.accepted", sdk_keys=list(sdk_keys), trigger=trigger, **announced)

    def webhook_timed(self, delay_s: float | None) -> None:
        """A webhook came so long after its change was saved, by Optimizely's clock; no log line, only the metric. → Nothing."""
        if delay_s is not None:
            self._metrics.observe("webhook_delay_seconds", delay_s)

    def webhook_ignored(self, reason: str, *, is_repeat: bool = False) -> None:
        """A webhook was verified and changes nothing in this sidecar; the first is logged at once, and those of the next 10
        seconds in one line with their number for each reason in `more`. One that was received before is only counted.
        → Nothing; it may be for another environment, or its revision may be here already.
        """
        self._metrics.count("webhooks", "ignored")
        if is_repeat:
            self._ignored.hold(reason)
            return
        self._summarise_webhooks(self._clock())
        if self._ignored.admit(reason, self._clock()):
            self._log.info("webhook.ignored", reason=reason)

    def webhook_rejected(self, outcome: str, reason: str) -> None:
        """A webhook was rejected; the first is logged at once, and those of the next 10 seconds in one line with their
        number in `more`.
        → For `unverified`, compare the secret with the one in Optimizely's settings.
        """
        self._metrics.count("webhooks", outcome)
        self._summarise_webhooks(self._clock())
        if self._rejected.admit(outcome, self._clock()):
            self._log.warning("webhook.rejected", outcome=outcome, reason=_short(reason))

    def summarise(self) -> None:
        """Log the webhooks that were held back, if it is time, and how many log lines were dropped."""
        if dropped := self._take_dropped():
            self.lines_dropped(dropped)
        self._summarise_webhooks(self._clock())

    def _summarise_webhooks(self, now: float) -> None:
        if held := self._rejected.take(now):
            self._log.warning("webhook.rejected", more=held)
        if held := self._ignored.take(now):
            self._log.info("webhook.ignored", more=held)

    def webhook_relayed(self, outcomes: Mapping[str, int]) -> None:
        """A webhook was relayed to the peers; `outcomes` counts the results.
        → If some were not reached, look at `peers` in `/status`; they will find the change by polling.
        """
        for outcome, count in outcomes.items():
            self._metrics.count("relays", outcome, by=count)
        log = self._log.info if set(outcomes) <= {"delivered"} else self._log.warning
        log("webhook.relayed", outcomes=dict(outcomes))

    def peers_many(self, name: str, count: int) -> None:
        """A name in DATAFILE_PEERS has 500 addresses or more: relaying to so many takes seconds, and no more than 4,094 of them
        can be resolved. → Set DATAFILE_BUS_URL instead of DATAFILE_PEERS.
        """
        reason = "the bus is the way to reach so many pods: set DATAFILE_BUS_URL instead of DATAFILE_PEERS"
        self._log.warning("peers.many", name=name, addresses=count, reason=reason)

    def target_changed(self, sdk_key: str, revision: int) -> None:
        """A webhook announced a newer revision, or an announced one was given up; no log line, only the metric.
        → Nothing.
        """
        self._metrics.set("target_revision", revision, sdk_key)

    def revision_withdrawn(self, sdk_keys: Iterable[str], revision: int | None) -> None:
        """A signed event took an announced revision back: the sidecar no longer waits for it.
        → Nothing. `datafile-sidecar send-webhook --withdraw` sends such events.
        """
        self._metrics.count("webhooks", "accepted")
        self._log.info("revision.withdrawn", sdk_keys=list(sdk_keys), revision=revision)

    def webhook_overdue(self, sdk_key: str, revision: int, have: int | None, waited_s: float) -> None:
        """Upstream did not serve an announced revision within 10 minutes; polling goes on.
        → See Optimizely's status page; if other pods have it, compare what the CDN serves them.
        """
        self._log.warning("webhook.overdue", sdk_key=sdk_key, revision=revision, have=have, waited_s=round(waited_s, 1))

    def webhook_missed(self, sdk_key: str, revision: int) -> None:
        """A poll found a revision that no webhook had announced, although webhooks used to arrive.
        → If it repeats, check the webhook in Optimizely's settings, the Ingress, and the log for `webhook.rejected`.
        """
        self._metrics.count("missed_webhooks", sdk_key)
        self._log.warning("webhook.missed", sdk_key=sdk_key, revision=revision, reason="a poll found it first")

    # The bus

    def bus_connected(self, address: str) -> None:
        """The bus is connected: its records have been read, its messages arrive, and it takes writes. → Nothing."""
        self._metrics.set("bus_connected", 1)
        self._throttle.reset("bus.disconnected")
        self._log.info("bus.connected", address=address)

    def bus_disconnected(self, reason: str, wait_s: float) -> None:
        """The connection to the bus is lost and will be tried again; logged at once and then at most twice a minute.
        → Check the broker. Webhooks and polls go on without it.
        """
        self._metrics.set("bus_connected", 0)
        self._warn_throttled("bus.disconnected", **_retry(reason, wait_s))

    def bus_refused(self, reason: str, *, is_connected: bool) -> None:
        """The broker refused a command: it is out of memory, or a permission is missing. While it refuses all writes, the bus
        does not count as connected.
        → Compare its ACL with docs/operations.md, and check its memory.
        """
        self._metrics.count("bus_records", "refused")
        self._metrics.set("bus_connected", int(is_connected))
        self._warn_throttled("bus.refused", reason=_short(reason))

    def fleet_refused(self, reason: str) -> None:
        """The broker refused to register this pod, so `status` can't give a yes by the bus; everything else goes on.
        → Give the user the permissions in docs/operations.md; `check` names the command.
        """
        self._warn_throttled("bus.fleet_refused", reason=_short(reason))

    def bus_record_shared(self, sdk_key: str, revision: int) -> None:
        """This pod has put a datafile on the bus for the other pods. → Nothing."""
        self._metrics.count("bus_records", "shared")
        self._log.info("bus_record.shared", sdk_key=sdk_key, revision=revision)

    def bus_record_received(self, sdk_key: str, revision: int, *, is_change: bool) -> None:
        """The bus has brought a datafile, which this pod will publish: as a change in a message, or by reading the whole value.
        → Nothing. Many whole values mean that messages are lost, or that the datafile is rewritten rather than changed."""
        self._metrics.count("bus_records", "changed" if is_change else "read")
        self._log.debug("bus_record.received", sdk_key=sdk_key, revision=revision, is_change=is_change)

    def bus_record_missing(self, sdk_key: str, reason: str) -> None:
        """A datafile that was announced on the bus could not be read; upstream is asked for it instead.
        → If it repeats, check the broker's memory, its eviction policy, and its network.
        """
        self._metrics.count("bus_records", "missing")
        self._warn_throttled("bus_record.missing", sdk_key=sdk_key, reason=reason)

    def bus_record_rejected(self, sdk_key: str, where: str, reason: str) -> None:
        """A record or a message on the bus is invalid.
        → Find out what else writes to the broker: a client with write access can change flags.
        """
        self._metrics.count("bus_records", "bad")
        self._warn_throttled("bus_record.rejected", sdk_key=sdk_key, where=where, reason=_short(reason))

    def bus_record_questioned(self, sdk_key: str, offered: int, have: int | None) -> None:
        """Other pods report that upstream went back to an older revision; this pod asks upstream before it follows.
        → Nothing; check whether an old state was restored in Optimizely.
        """
        self._metrics.count("bus_records", "questioned")
        reason = "other pods report that upstream went back; upstream is asked"
        self._warn_throttled("bus_record.questioned", sdk_key=sdk_key, offered=offered, have=have, reason=reason)

    def poll_spared(self, sdk_key: str) -> None:
        """A poll was skipped because another pod had just polled. → Nothing."""
        self._metrics.count("spared_polls", sdk_key)
        self._log.debug("poll.spared", sdk_key=sdk_key, reason="another pod has just polled")

    def _warn_throttled(self, event: str, **fields: object) -> None:
        """Log a warning at most twice a minute, with the number of those left out in between."""
        if (more := self._throttle.admit(event, self._clock(), _WARN_EVERY_S)) is not None:
            self._log.warning(event, **fields, **({"more": more} if more else {}))

    # Workers

    def workers_unheard(self, reason: str) -> None:
        """The socket for workers can't be created on the volume, so workers can't report their revisions; datafiles are
        still published.
        → Fix what `reason` names.
        """
        consequence = "workers can't report their revisions; datafiles are still published"
        self._log.warning("workers.unheard", reason=reason, consequence=consequence)

    def worker_refused(self, reason: str) -> None:
        """A connection on `sidecar.sock` was refused; each reason is logged at most once a minute.
        → `unknown_key`: compare DATAFILE_SDK_KEYS of app and sidecar. `too_many`: more than 256 processes, or fewer
        where less than 1344 files may be open (`ulimit -n`). Otherwise find out which process connects there.
        """
        self._metrics.count("refused_workers", reason)
        if self._throttle.admit(f"worker.refused {reason}", self._clock(), _REFUSED_EVERY_S) is not None:
            self._log.warning("worker.refused", reason=reason)

    def worker_datafile_refused(self, sdk_key: str, worker: Mapping[str, object], reason: str) -> None:
        """A process of the app can't use the published datafile, and goes on with the one before; logged twice a minute at most.
        → `reason` says why: the app's SDK may be too old for the datafile, or its user may not read the file.
        """
        self._warn_throttled("worker.datafile_refused", sdk_key=sdk_key, **worker, reason=shorten(reason, _MAX_CHARS))

    def workers_counted(self, sdk_key: str, count: int, oldest: int | None, refusing: int) -> None:
        """The number of workers, the lowest revision that a worker uses, or the number of those that can't use the published
        datafile has changed; no log line, only the metrics.
        → Nothing.
        """
        self._metrics.set("workers", count, sdk_key)
        self._metrics.set("workers_refusing", refusing, sdk_key)
        self._metrics.set("worker_revision_min", math.nan if oldest is None else oldest, sdk_key)

    def datafile_applied(self, sdk_key: str, worker: Mapping[str, object], apply_s: float) -> None:
        """A worker now uses the published revision. → Nothing."""
        self._metrics.observe("apply_seconds", apply_s, sdk_key)
        self._log.info("datafile.applied", sdk_key=sdk_key, **worker, apply_s=round(apply_s, 4))

    # Fetches

    def fetch_succeeded(self, sdk_key: str, source: str, outcome: str, took_s: float) -> None:
        """Upstream answered with a valid datafile, or that it is unchanged. → Nothing."""
        self._metrics.count("fetches", sdk_key, source, outcome)
        self._log.debug("fetch.succeeded", sdk_key=sdk_key, source=source, outcome=outcome, took_s=round(took_s, 3))

    def fetch_failed(self, sdk_key: str, source: str, outcome: str, reason: str, wait_s: float) -> None:
        """A datafile could not be fetched, or is invalid; the sidecar tries again after `wait_s`.
        → Do what `reason` says; `datafile-sidecar check` says more.
        """
        self._metrics.count("fetches", sdk_key, source, outcome)
        self._log.warning("fetch.failed", sdk_key=sdk_key, source=source, outcome=outcome, **_retry(reason, wait_s))

    def datafile_refused(self, sdk_key: str, source: str, served: int, have: int | None, reason: str) -> None:
        """Upstream served an older revision than the one on the volume, so it was not published.
        → Nothing: caches differ for a while. An intended rollback is published after DATAFILE_ROLLBACK_AFTER_S.
        """
        self._metrics.count("refusals", sdk_key)
        self._log.info("datafile.refused", sdk_key=sdk_key, source=source, served=served, have=have, reason=reason)

    # The volume

    def datafile_loaded(self, sdk_key: str, revision: int, checked: float | None) -> None:
        """A valid datafile was already on the volume at the start. → Nothing."""
        self._metrics.set("revision", revision, sdk_key)
        self._metrics.set("target_revision", revision, sdk_key)
        if checked is not None:
            self._metrics.set("checked_timestamp_seconds", checked, sdk_key)
        self._log.info("datafile.loaded", sdk_key=sdk_key, revision=revision)

    def datafile_unusable(self, sdk_key: str, origin: str, reason: str) -> None:
        """A file on the volume, or a bootstrap file, is not a valid datafile.
        → Replace the bootstrap file; a file on the volume is replaced by the next successful fetch.
        """
        self._log.warning("datafile.unusable", sdk_key=sdk_key, origin=origin, reason=_short(reason))

    def datafile_lost(self, sdk_key: str) -> None:
        """Another process has removed or replaced the published file; it is fetched again.
        → Find out what else writes to the volume: the app's mount should be read-only.
        """
        reason = "another process removed or replaced the published file"
        self._log.warning("datafile.lost", sdk_key=sdk_key, reason=reason)

    def datafile_checked(self, sdk_key: str, at: float | None) -> None:
        """Upstream has confirmed the datafile on the volume; no log line, only the metric. → Nothing."""
        if at is not None:
            self._metrics.set("checked_timestamp_seconds", at, sdk_key)

    def datafile_published(
        self, sdk_key: str, *, revision: int, target: int, trigger: str, size: int, propagation_s: float | None
    ) -> None:
        """A datafile was renamed into place; `trigger` says what caused it, `propagation_s` how long after its webhook.
        → Nothing.
        """
        self._metrics.set("revision", revision, sdk_key)
        self._metrics.set("target_revision", target, sdk_key)
        self._metrics.set("published_timestamp_seconds", time.time(), sdk_key)
        self._metrics.count("publishes", sdk_key, trigger)
        if propagation_s is not None:
            self._metrics.observe("propagation_seconds", propagation_s, sdk_key)
        took_s = None if propagation_s is None else round(propagation_s, 4)
        self._log.info(
            "datafile.published", sdk_key=sdk_key, revision=revision, trigger=trigger, size=size, propagation_s=took_s
        )

    def datafile_changed(self, sdk_key: str, *, revision: int, before: int, what: Sequence[str]) -> None:
        """The published datafile was compared with the one `before`; `what` says in words what changed, and is empty where no
        decision can.
        → Nothing, unless the change was not intended.
        """
        self._log.info("datafile.changed", sdk_key=sdk_key, revision=revision, before=before, what=list(what))

    def comparison_failed(self, sdk_key: str, revision: int, reason: str) -> None:
        """The published datafile could not be compared with the one before; it is in use all the same.
        → Report it: this is a fault of the sidecar.
        """
        self._log.warning("comparison.failed", sdk_key=sdk_key, revision=revision, reason=_short(reason))

    def datafile_rolled_back(self, sdk_key: str, revision: int, left: int | None) -> None:
        """Upstream served an older revision for so long that it was published.
        → Nothing, if an old state was restored in Optimizely; otherwise find out why upstream went back.
        """
        reason = "upstream keeps serving the older revision"
        self._log.warning("datafile.rolled_back", sdk_key=sdk_key, revision=revision, left=left, reason=reason)

    def publish_failed(self, sdk_key: str, reason: str, wait_s: float) -> None:
        """A datafile could not be written; the previous one stays in place, and the sidecar tries again after `wait_s`.
        → See `reason`: is the volume full, or mounted read-only?
        """
        self._metrics.count("publish_failures", sdk_key)
        self._log.error("publish.failed", sdk_key=sdk_key, **_retry(reason, wait_s))


def _short(text: str) -> str:
    """Shorten text from outside."""
    return shorten(text, _MAX_CHARS)


def _retry(reason: str, wait_s: float) -> dict[str, object]:
    """Return the fields that say why something failed, and when it is tried again."""
    return {"reason": _short(reason), "wait_s": round(wait_s, 2)}
