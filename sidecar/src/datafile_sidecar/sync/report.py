"""What the log and the metrics tell of one publication."""

from dataclasses import dataclass

from datafile_sidecar.core import reconcile
from datafile_sidecar.core.datafile import Datafile
from datafile_sidecar.core.gate import Verdict
from datafile_sidecar.core.state import Candidate, State, Trigger
from datafile_sidecar.observe.telemetry import Telemetry


@dataclass(frozen=True, slots=True)
class Publication:
    """A datafile that was renamed into place, and what was known before. `propagation_s` is the time since its webhook."""

    datafile: Datafile
    candidate: Candidate
    verdict: Verdict
    trigger: Trigger
    before: State
    propagation_s: float | None

    @classmethod
    def of(
        cls, before: State, candidate: Candidate, verdict: Verdict, trigger: Trigger, datafile: Datafile, now: float
    ) -> "Publication":
        """Describe what was just published; `now` is on the clock of the state's times."""
        announced = reconcile.fulfilled(before, datafile.revision)
        took_s = now - announced.at if announced and trigger is not Trigger.BOOTSTRAP else None
        return cls(datafile, candidate, verdict, trigger, before, took_s)

    def report(self, sdk_key: str, target: int, telemetry: Telemetry) -> None:
        """Tell of it. `target` is the revision that should be on the volume now."""
        revision, took_s = self.datafile.revision, self.propagation_s
        telemetry.datafile_published(
            sdk_key,
            revision=revision,
            target=target,
            trigger=self.trigger,
            size=self.datafile.size,
            propagation_s=took_s,
        )
        if self.candidate.fetched is not None:
            telemetry.datafile_checked(sdk_key, self.candidate.fetched)
        if self.verdict is Verdict.ROLL_BACK:
            telemetry.datafile_rolled_back(sdk_key, revision, self.before.revision)
        if reconcile.is_missed(self.before, revision, self.trigger):
            telemetry.webhook_missed(sdk_key, revision)
