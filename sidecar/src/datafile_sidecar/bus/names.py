"""The names of keys and channels on the broker. Sidecars of all versions share them."""

from dataclasses import dataclass
from typing import Final

_PREFIX: Final = "datafile-sidecar:1"


def datafile_key(sdk_key: str) -> str:
    """Return the key of the newest datafile, a value of `core/bus_record.py`."""
    return f"{_PREFIX}:{sdk_key}:datafile"


def check_key(sdk_key: str) -> str:
    """Return the key of the last check of upstream."""
    return f"{_PREFIX}:{sdk_key}:checked"


def lease_key(sdk_key: str) -> str:
    """Return the key of the poll lease."""
    return f"{_PREFIX}:{sdk_key}:poll"


def channel(sdk_key: str) -> str:
    """Return the channel on which new datafiles are announced."""
    return f"{_PREFIX}:{sdk_key}:news"


def probe_keys() -> tuple[str, str]:
    """Return the keys that a sidecar writes and deletes to see whether it may. In a Redis Cluster they have different slots."""
    return f"{_PREFIX}:probe", f"{_PREFIX}:probe:other"


def probe_channel() -> str:
    """Return the channel to which a sidecar publishes to see whether it may. No sidecar listens to it."""
    return f"{_PREFIX}:probe"


@dataclass(frozen=True, slots=True)
class FleetNames:
    """Where the fleet of one SDK key is: a hash, the number of its changes, and the channel that its pods listen to."""

    pods: str
    changes: str
    channel: str


def fleet_names(sdk_key: str) -> FleetNames:
    """Return where the pods of this SDK key leave what they have. Both keys have one slot in a Redis Cluster."""
    return FleetNames(f"{_PREFIX}:{{{sdk_key}}}:pods", f"{_PREFIX}:{{{sdk_key}}}:changes", channel(sdk_key))


def fleet_probe_names() -> FleetNames:
    """Return where `check` tries what sidecars and `status` do. No SDK key has such a name."""
    return FleetNames(f"{_PREFIX}:probe:{{fleet}}", f"{_PREFIX}:probe:{{fleet}}:changes", probe_channel())
