"""What a new pod learns from the answers of a few peers about the newest revision of an SDK key."""

from collections import defaultdict
from collections.abc import Iterable

from datafile_sidecar.core.fleet_status import SidecarStatus

_ALIKE = 2


def agreed_revision(statuses: Iterable[SidecarStatus], sdk_key: str) -> tuple[int, int] | None:
    """Return the generation and the revision that two sidecars have alike, None where no two do.

    One answer is not enough: a single sidecar may be wrong. Of several that two have, the latest generation counts, then the
    highest revision.
    """
    holders: dict[tuple[int, int], set[str]] = defaultdict(set)
    for status in statuses:
        key = status.keys.get(sdk_key)
        if key is not None and key.revision is not None and status.instance:
            holders[key.generation or 0, key.revision].add(status.instance)
    agreed = [version for version, instances in holders.items() if len(instances) >= _ALIKE]
    return max(agreed, default=None)
