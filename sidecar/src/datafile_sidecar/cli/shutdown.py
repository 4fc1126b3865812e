"""The last second of the daemon: accepted work is finished, and a webhook that still comes is answered once it is kept.

A webhook is assumed to be delivered once. So while the sidecar is stopping, one is accepted only when a peer has got it, or when
its revision is on the volume and, with a bus, on the bus.
"""

import asyncio
import contextlib
import math
from collections.abc import Callable, Mapping

from datafile_sidecar.bus import Bus
from datafile_sidecar.sync.syncer import KeySyncer
from datafile_sidecar.webhooks.peers import Peers

SETTLE_S = 1.0
_LOOK_EVERY_S = 0.01


class Shutdown:
    """Waits for the work that must not be lost, for at most a second after `begin`."""

    def __init__(self, syncers: Mapping[str, KeySyncer], peers: Peers, bus: Bus | None) -> None:
        """Take the parts whose work is waited for."""
        self._syncers = syncers
        self._peers = peers
        self._bus = bus
        self._ends_at = math.inf
        self._waiting = 0

    @property
    def has_begun(self) -> bool:
        """Whether the sidecar is stopping."""
        return self._ends_at < math.inf

    async def settle(self) -> None:
        """Begin, and return when accepted work is done or the second is over. From then on, no webhook is accepted."""
        self._ends_at = _now() + SETTLE_S
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(self._ends_at):
                await asyncio.gather(self._peers.settle(), *(one.settle() for one in self._syncers.values()))
                if self._bus is not None:
                    await self._bus.settle()
                await _until(lambda: not self._waiting)
        self._ends_at = _now()
        if self._bus is not None and self._bus.fleet is not None:
            await self._bus.fleet.leave()

    async def is_kept(self, body: bytes, sdk_keys: tuple[str, ...]) -> bool:
        """Return whether a webhook outlives the end of this process; while it is not stopping, that is so at once.

        Args:
            body: The raw body, which was handed to the peers.
            sdk_keys: The keys that are fetched because of it.
        """
        if not self.has_begun:
            return True
        self._waiting += 1
        try:
            async with asyncio.timeout_at(self._ends_at):
                await self._peers.settle_body(body)
                await _until(lambda: bool(self._peers.is_delivered(body)) or not self._is_behind(sdk_keys))
                if self._bus is not None:
                    await self._bus.settle()
        except TimeoutError:
            pass  # what has been done by now decides
        finally:
            self._waiting -= 1
        is_delivered = self._peers.is_delivered(body)
        is_published = bool(sdk_keys) and not self._is_behind(sdk_keys)
        return is_delivered or is_published or (is_delivered is None and not sdk_keys)

    def _is_behind(self, sdk_keys: tuple[str, ...]) -> bool:
        return any(self._syncers[key].state.is_behind for key in sdk_keys)


async def _until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 – nothing tells of it, and it takes a second at most
        await asyncio.sleep(_LOOK_EVERY_S)


def _now() -> float:
    return asyncio.get_running_loop().time()
