"""What the extra `redis` installs: the client for Redis, and Zstandard. Without a bus, neither is needed or loaded."""

import importlib
import importlib.util
import sys
from typing import Final

from datafile_sidecar.bus.broker import Connect
from datafile_sidecar.bus.errors import BusError

_PACKAGES: Final = ("redis", "_zstd" if sys.version_info >= (3, 14) else "backports.zstd")


def check_installed() -> None:
    """Raise BusError if something is missing."""
    if not all(map(_is_installed, _PACKAGES)):
        raise BusError(
            "DATAFILE_BUS_URL is set, but the client for Redis or Zstandard is not installed: "
            "pip install 'datafile-sidecar[redis]'"
        )


def load() -> Connect:
    """Import all of it, which takes long enough to hold up the event loop. Return what connects to Redis."""
    importlib.import_module("datafile_sidecar.bus.compression")
    from datafile_sidecar.bus.redis_broker import RedisConnector

    return RedisConnector().connect


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # the package that it is in
        return False
