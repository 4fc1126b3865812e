"""The poll lease: one poll of upstream per interval for the whole fleet, without a leader."""

import secrets
from collections.abc import Callable
from enum import Enum

from datafile_sidecar.bus.broker import Broker
from datafile_sidecar.bus.names import check_key, lease_key
from datafile_sidecar.core import bus_record
from datafile_sidecar.core.bus_record import Check


class Lease(Enum):
    """Whether this pod or another one polls now."""

    OURS = "ours"
    OTHERS = "others"


class PollLeases:
    """The leases that this pod holds, at most one for each SDK key, and the checks that all pods report."""

    def __init__(self) -> None:
        self._tokens: dict[str, bytes] = {}

    async def acquire(
        self, broker: Broker, sdk_key: str, suits: Callable[[Check], bool], lease_s: float | None
    ) -> Check | Lease:
        """Return another pod's check if it suits, else acquire the lease. With `lease_s` None, acquire nothing.

        Where a check is returned, this pod may hold the lease all the same and must release it.
        """
        if check := await self._suitable(broker, sdk_key, suits):
            return check
        if lease_s is None:
            return Lease.OURS
        # Remember the token before the broker answers: the answer may be lost though the lease was acquired.
        self._tokens[sdk_key] = token = secrets.token_hex(8).encode()
        if not await broker.acquire_lease(lease_key(sdk_key), token, lease_s):
            self.forget(sdk_key)
            return Lease.OTHERS
        # The pod that held the lease may have reported its check after our first look and before we acquired the lease.
        return await self._suitable(broker, sdk_key, suits) or Lease.OURS

    def forget(self, sdk_key: str) -> bytes | None:
        """Return the token of our lease, None without one. From now on the lease is not ours."""
        return self._tokens.pop(sdk_key, None)

    async def release(self, broker: Broker, sdk_key: str, token: bytes) -> None:
        """Let another pod poll."""
        async with broker.time_limit():
            await broker.release_lease(lease_key(sdk_key), token)

    async def report_check(self, broker: Broker, sdk_key: str, check: Check) -> None:
        """Store a check for other pods. This ends any lease, also one that was written without an expiry."""
        async with broker.time_limit():
            await broker.set_and_delete(check_key(sdk_key), check.encode(), lease_key(sdk_key))

    async def _suitable(self, broker: Broker, sdk_key: str, suits: Callable[[Check], bool]) -> Check | None:
        check = bus_record.decode_check(await broker.get(check_key(sdk_key), bus_record.MAX_HEAD_BYTES + 1))
        return check if check and suits(check) else None
