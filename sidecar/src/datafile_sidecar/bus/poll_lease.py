"""Who polls, and what came of it: one poll per interval for the whole fleet, without a leader."""

import secrets
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from typing import TYPE_CHECKING

from datafile_sidecar.bus.names import KEEP_S, beginning, name
from datafile_sidecar.core import bus_record
from datafile_sidecar.core.bus_record import Check

if TYPE_CHECKING:
    from redis.asyncio import Redis


class Claim(Enum):
    """Who polls now."""

    OURS = "ours"
    ANOTHERS = "anothers"


class Polls:
    """The claims of this pod, one for each SDK key at most, and the checks that all pods leave."""

    def __init__(self) -> None:
        self._claims: dict[str, bytes] = {}

    async def consult(
        self, client: "Redis", sdk_key: str, suits: Callable[[Check], bool], claim_s: float | None
    ) -> Check | Claim:
        """The check that another pod made, where it suits; else who polls now. `claim_s` None claims nothing.

        With a check, our own claim may have been made already; then it is to be given back.
        """
        if check := await self._suitable(client, sdk_key, suits):
            return check
        if claim_s is None:
            return Claim.OURS
        if not await self._claim(client, sdk_key, claim_s):
            return Claim.ANOTHERS
        # Who had the claim until now may have told its check between our look and our claim.
        return await self._suitable(client, sdk_key, suits) or Claim.OURS

    def spend(self, sdk_key: str) -> bytes | None:
        """The poll is over; the claim that we had to it, where we had one."""
        return self._claims.pop(sdk_key, None)

    async def give_back(self, client: "Redis", sdk_key: str, claim: bytes) -> None:
        """Compare and delete: a claim that has expired may be another pod's by now."""
        from redis.exceptions import WatchError

        key = name(sdk_key, "poll")
        async with client.pipeline(transaction=True) as pipe:
            await pipe.watch(key)
            if await beginning(pipe, key, len(claim)) == claim:
                pipe.multi()  # type: ignore[no-untyped-call]
                pipe.delete(key)
                with suppress(WatchError):
                    await pipe.execute()

    async def tell(self, client: "Redis", sdk_key: str, check: Check) -> None:
        """Leave a check for others, which ends whatever claim there is: also one that has no end."""
        async with client.pipeline(transaction=True) as pipe:
            pipe.set(name(sdk_key, "checked"), check.encode(), ex=KEEP_S)
            pipe.delete(name(sdk_key, "poll"))
            await pipe.execute()

    async def _claim(self, client: "Redis", sdk_key: str, claim_s: float) -> bool:
        self._claims[sdk_key] = claim = secrets.token_hex(8).encode()  # before, for the answer may never come
        if await client.set(name(sdk_key, "poll"), claim, nx=True, px=max(1, round(claim_s * 1000))):
            return True
        self._claims.pop(sdk_key, None)
        return False

    async def _suitable(self, client: "Redis", sdk_key: str, suits: Callable[[Check], bool]) -> Check | None:
        check = bus_record.decode_check(await beginning(client, name(sdk_key, "checked"), bus_record.MAX_HEAD_BYTES))
        return check if check and suits(check) else None
