"""Time limits for a datafile on its way from or to the broker: for silence, and for the whole."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from datafile_sidecar.bus.broker import Broker

_TRANSFER_WITHIN_S = 20.0
"""How long a datafile may take at least, on a line that is narrow for so many pods; at most twice as long."""


class TooLongError(Exception):
    """A datafile moves, but would take too long."""


@asynccontextmanager
async def transfer(broker: Broker, deadline: float) -> AsyncIterator[None]:
    """Bound what takes long. Raises TimeoutError for a broker that is silent, TooLongError at the deadline."""
    async with broker.time_limit():
        try:
            async with asyncio.timeout_at(deadline):
                yield
        except TimeoutError as error:
            raise TooLongError from error


def transfer_deadline() -> float:
    """Return when to give up a transfer that begins now, in the event loop's time. Pods of a fleet don't give up together."""
    return asyncio.get_running_loop().time() + _TRANSFER_WITHIN_S * (1 + random.random())
