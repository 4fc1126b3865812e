"""The client for Redis is an extra: whether it is installed, and loading it late, since a sidecar without a bus needs neither."""

import importlib.util

from datafile_sidecar.bus.broker import Connect
from datafile_sidecar.bus.errors import BusError


def require_redis() -> None:
    """Raise BusError where the client for Redis is not installed."""
    if importlib.util.find_spec("redis") is None:
        raise BusError(
            "DATAFILE_BUS_URL is set, but the client for Redis is not installed: pip install 'datafile-sidecar[redis]'"
        )


def load_redis() -> Connect:
    """Import the client, which takes long enough to hold up the event loop."""
    from datafile_sidecar.bus.redis_broker import RedisConnector

    return RedisConnector().connect
