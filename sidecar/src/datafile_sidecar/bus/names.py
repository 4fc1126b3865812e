"""The names of keys and channels on the broker. Sidecars of all versions share them."""

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


def in_one_slot(name: str) -> str:
    """Return a name as it is in a Redis Cluster: the hash tag lets one node own all keys and channels of the bus."""
    return name.replace(_PREFIX, f"{_PREFIX}:{{bus}}", 1)
