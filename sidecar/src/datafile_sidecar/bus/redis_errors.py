"""Turns the errors of the package `redis` into those of the bus."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from redis.exceptions import RedisError, ResponseError

from datafile_sidecar.bus.errors import BrokerError, CommandRefusedError

_CLUSTER: Final = ("MOVED", "ASK", "CLUSTERDOWN", "CROSSSLOT", "TRYAGAIN")
_NO_WRITES: Final = ("OOM", "READONLY", "MISCONF", "NOREPLICAS")
_IN_PIPELINE = re.compile(r"Command # .* of pipeline caused error: \((['\"])(.*)\1,\)", re.DOTALL)


@contextmanager
def translated_errors() -> Iterator[None]:
    """Raise CommandRefusedError where the connection is still good, else BrokerError."""
    try:
        yield
    except RedisError as error:
        text, code = _explained(error)
        # After a failover, the next connection finds the primary. No command of ours is right on a node of a cluster.
        is_lost = not isinstance(error, ResponseError) or code in {"READONLY", *_CLUSTER}
        raise (BrokerError if is_lost else CommandRefusedError)(text) from error


def _explained(error: RedisError) -> tuple[str, str]:
    """Return the broker's own words, with what they mean, and their code: the package takes the code away."""
    text = str(error) or type(error).__name__
    if in_pipeline := _IN_PIPELINE.fullmatch(text):
        text = in_pipeline[2]
    if error.status_code and not text.startswith(error.status_code):
        text = f"{error.status_code} {text}"
    code = text.partition(" ")[0]
    if code in _CLUSTER:
        text = f"this is a node of a Redis Cluster: {text}"
    elif code in _NO_WRITES:
        text = f"the broker takes no writes: {text}"
    return text, code
