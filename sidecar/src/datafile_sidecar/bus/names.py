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
