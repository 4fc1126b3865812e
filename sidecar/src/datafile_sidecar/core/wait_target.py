"""What `status --wait-for-revision` waits for, held against what all sidecars answer."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from datafile_sidecar.core import fleet_status, fleet_summary
from datafile_sidecar.core.fleet_status import StatusResponse
from datafile_sidecar.core.fleet_summary import FleetSummary

LATEST = "latest"


@dataclass(frozen=True, slots=True)
class WaitTarget:
    """The revision of a key to wait for; LATEST is the newest that upstream or any sidecar has, or a sidecar expects.

    `upstream_problem` says why upstream's revision is not known.
    """

    sdk_key: str
    revision: int | str
    workers_required: bool = True
    upstream_revision: int | None = None
    upstream_problem: str | None = None
    seen: int | None = None

    def after(self, responses: Sequence[StatusResponse]) -> "WaitTarget":
        """The target of the next round: what a sidecar expected, or had, is not forgotten because it ends or restarts."""
        return replace(self, seen=self.wanted(responses))

    def wanted(self, responses: Sequence[StatusResponse]) -> int | None:
        """The revision as a number, None for LATEST when it is not known."""
        if not isinstance(self.revision, str):
            return self.revision
        known = (fleet_status.latest_revision(responses, self.sdk_key), self.upstream_revision, self.seen)
        return max((revision for revision in known if revision is not None), default=None)

    def summary(self, responses: Sequence[StatusResponse]) -> FleetSummary:
        """Count who has confirmed the revision."""
        wanted = self.wanted(responses)
        return fleet_summary.summarise(responses, self.sdk_key, wanted, workers_required=self.workers_required)

    def lagging(self, responses: Sequence[StatusResponse]) -> list[str]:
        """One sentence for each sidecar or worker that has not confirmed the revision or a newer one."""
        problem = [f"upstream: can't be asked: {self.upstream_problem}"] if self.upstream_problem else []
        return problem + fleet_status.lagging(
            responses, self.sdk_key, self.wanted(responses), workers_required=self.workers_required
        )
