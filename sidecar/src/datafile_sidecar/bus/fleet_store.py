"""What the bus keeps of a fleet: one hash for each SDK key, with a field for each pod, and a number that grows with each change."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from datafile_sidecar.bus.names import FleetNames

SINCE_FIELD: Final = "since"
"""The field that says when the first pod registered, and is another after the broker has lost its memory."""
SAMPLE: Final = 6
"""How many names of other pods a pod reads each time. Those that it has read lately outlive the broker's memory."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What a pod writes about one SDK key. `name` is the pod's field; `since` counts where no pod has registered before."""

    names: FleetNames
    name: str
    value: bytes
    since: bytes
    removed: tuple[str, ...]
    is_change: bool


@dataclass(frozen=True, slots=True)
class Registered:
    """What the broker answered about one SDK key: since when pods register there, and the names of a few of them."""

    since: bytes
    sample: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Moment:
    """What tells whether a fleet has to be read again: the number of changes, and of connections that listen."""

    changes: int
    listeners: int


class FleetStore(Protocol):
    """The fleets on one connection. Methods raise as those of `Broker` do."""

    async def time(self) -> float:
        """Return the broker's clock in Unix seconds."""

    async def register(self, entries: Sequence[Entry]) -> tuple[float, list[Registered]]:
        """Write each entry, then delete what it removes, and count a change. Returns the broker's clock and the answers."""

    async def remember(self, names: FleetNames, pods: Collection[bytes], value: bytes) -> None:
        """Give each of these pods a field with this value, unless it has one."""

    async def unregister(self, names: FleetNames, pods: Collection[str | bytes]) -> None:
        """Remove these pods."""

    async def clear(self, names: FleetNames) -> None:
        """Delete all of a fleet."""

    async def moment(self, names: FleetNames) -> Moment:
        """Return what changes when the fleet does."""

    async def count(self, names: FleetNames) -> int:
        """Return how many fields there are."""

    async def step(self, names: FleetNames, cursor: int) -> tuple[int, Mapping[bytes, bytes]]:
        """Return some of the fields, and where to go on: 0 at the end, as at the beginning. A field may come twice."""
