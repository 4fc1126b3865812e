"""Counts a fleet: how many pods and workers, at which revision, how many lag, and who is not heard or excused."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from datafile_sidecar.core import fleet_status
from datafile_sidecar.core.fleet_status import StatusResponse, number


@dataclass(frozen=True, slots=True)
class FleetSummary:
    """One SDK key of a fleet. `revisions` counts the pods that have each revision on their volume, the newest first.

    A pod that lags may be silent, too. Those that are `excused` are not among the `pods`.
    """

    sdk_key: str
    pods: int
    workers: int
    lagging: int
    silent: int
    revisions: tuple[tuple[int | None, int], ...]
    excused: tuple[str, ...]

    @property
    def confirmed(self) -> int:
        """How many pods do not lag."""
        return self.pods - self.lagging

    def fields(self) -> dict[str, Any]:
        """Return it for programs."""
        revisions = [{"revision": revision, "pods": pods} for revision, pods in self.revisions]
        counts = {"sdk_key": self.sdk_key, "pods": self.pods, "workers": self.workers, "confirmed": self.confirmed}
        return counts | {"lagging": self.lagging, "not_heard": self.silent, "revisions": revisions}

    def lines(self) -> list[str]:
        """Return it for people."""
        excused = f", excused: {len(self.excused):,}" if self.excused else ""
        return [
            f"{fleet_status.printable(self.sdk_key)}: {counted(self.pods, 'pod')}, {counted(self.workers, 'worker')}",
            *(f"  at revision {number(revision)}: {counted(pods, 'pod')}" for revision, pods in self.revisions),
            f"  lagging: {self.lagging:,}, not heard: {self.silent:,}{excused}",
        ]


def summarise(
    responses: Sequence[StatusResponse], sdk_key: str, wanted: int | None, *, workers_required: bool = True
) -> FleetSummary:
    """Count the pods that serve a key, or may do so, and hold them against a revision."""
    pods = [one for one in responses if one.is_pod and (one.status is None or sdk_key in one.status.keys)]
    counted_pods = [one for one in pods if not one.is_excused]
    keys = [one.status.keys[sdk_key] for one in counted_pods if one.status and one.problem is None]
    behind = (fleet_status.lagging([one], sdk_key, wanted, workers_required=workers_required) for one in counted_pods)
    revisions = Counter(key.revision for key in keys)
    return FleetSummary(
        sdk_key=sdk_key,
        pods=len(counted_pods),
        workers=sum(key.worker_count for key in keys),
        lagging=sum(map(bool, behind)),
        silent=sum(one.problem is not None for one in counted_pods),
        revisions=tuple(sorted(revisions.items(), key=lambda item: -1 if item[0] is None else item[0], reverse=True)),
        excused=tuple(one.label for one in pods if one.is_excused),
    )


def counted(number: int, noun: str) -> str:
    """Return a number of things, such as "1 pod" or "10,000 pods"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
