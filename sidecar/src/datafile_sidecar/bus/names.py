"""The names of keys and channels on the broker. Sidecars of all versions share them, each in the forms that it knows.

In later names the SDK key is a hash tag, so that they have one slot of a Redis Cluster.
"""

from dataclasses import dataclass
from typing import Final

_PREFIX: Final = "datafile-sidecar:1"


def value_key(sdk_key: str) -> str:
    """Return the key of the newest datafile, a value of `core/bus_record.py`."""
    return f"{_PREFIX}:{{{sdk_key}}}:value"


def changes_channel(sdk_key: str) -> str:
    """Return the channel on which new datafiles are announced, with the change that leads to them."""
    return f"{_PREFIX}:{{{sdk_key}}}:changes"


def chase_key(sdk_key: str) -> str:
    """Return the key of the lease to fetch again and again what is announced and not served yet."""
    return f"{_PREFIX}:{{{sdk_key}}}:chase"


def earlier_value_key(sdk_key: str) -> str:
    """Return the key of the newest datafile, as sidecars of the first version write and read it."""
    return f"{_PREFIX}:{sdk_key}:datafile"


def earlier_channel(sdk_key: str) -> str:
    """Return the channel on which sidecars of the first version announce new datafiles."""
    return f"{_PREFIX}:{sdk_key}:news"


def forwarding_key(sdk_key: str, record_id: str) -> str:
    """Return the key of the lease to forward one datafile of an earlier version."""
    return f"{_PREFIX}:{{{sdk_key}}}:forwarding:{record_id}"


def check_key(sdk_key: str) -> str:
    """Return the key of the last check of upstream."""
    return f"{_PREFIX}:{sdk_key}:checked"


def lease_key(sdk_key: str) -> str:
    """Return the key of the poll lease."""
    return f"{_PREFIX}:{sdk_key}:poll"


def probe_keys() -> tuple[str, str]:
    """Return the keys that a sidecar writes and deletes to see whether it may. In a Redis Cluster they have different slots."""
    return f"{_PREFIX}:probe", f"{_PREFIX}:probe:other"


def probe_channel() -> str:
    """Return the channel to which a sidecar publishes to see whether it may. No sidecar listens to it."""
    return f"{_PREFIX}:probe"


def in_one_slot(name: str) -> str:
    """Return a name as it is in a Redis Cluster: the hash tag lets one node own all keys and channels of the bus."""
    return name.replace(_PREFIX, f"{_PREFIX}:{{bus}}", 1)


@dataclass(frozen=True, slots=True)
class FleetNames:
    """Where the fleet of one SDK key is: a hash, the number of its changes, and the channel of all pods, whatever their version."""

    pods: str
    changes: str
    channel: str

    def in_one_slot(self) -> "FleetNames":
        """Return them as they are in a Redis Cluster."""
        return FleetNames(in_one_slot(self.pods), in_one_slot(self.changes), in_one_slot(self.channel))


def fleet_names(sdk_key: str) -> FleetNames:
    """Return where the pods of this SDK key leave what they have. Both keys have one slot in a Redis Cluster."""
    return FleetNames(f"{_PREFIX}:{{{sdk_key}}}:pods", f"{_PREFIX}:{{{sdk_key}}}:changes", earlier_channel(sdk_key))


def fleet_probe_names() -> FleetNames:
    """Return where `check` tries what sidecars and `status` do. No SDK key has such a name."""
    return FleetNames(f"{_PREFIX}:probe:{{fleet}}", f"{_PREFIX}:probe:{{fleet}}:changes", probe_channel())
