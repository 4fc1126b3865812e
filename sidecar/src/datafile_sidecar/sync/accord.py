"""One key in step with its fleet: what it does with a datafile that the bus brings, and whether another pod's poll stands for ours.

Times are those of the event loop.
"""

import asyncio
import math

from datafile_sidecar.bus import Claim
from datafile_sidecar.core import offers, reconcile
from datafile_sidecar.core.bus_record import Check, Record
from datafile_sidecar.core.offers import Opinion
from datafile_sidecar.core.reconcile import Trigger
from datafile_sidecar.observe.telemetry import Telemetry
from datafile_sidecar.sync.keeper import Keeper
from datafile_sidecar.sync.replica import Sharing, offered

_OFFER_STANDS_S = 60.0


class Accord:
    """What follows, for one key, from what it shares with other pods. With no bus, nothing does."""

    def __init__(
        self, sdk_key: str, keeper: Keeper, sharing: Sharing, *, patience_s: float, telemetry: Telemetry
    ) -> None:
        """`patience_s` is how long it takes until a rollback is believed."""
        self._sdk_key = sdk_key
        self._keeper = keeper
        self._sharing = sharing
        self._patience_s = max(patience_s, _OFFER_STANDS_S)
        self._telemetry = telemetry

    async def spares_us(self) -> float | None:
        """Whether the fetch that is due is one that another pod has made or is making: a poll, or the first look at what was kept.

        None where it is ours to make; else in how many seconds to look again: infinitely many where a check stands for ours.
        """
        keeper = self._keeper
        is_poll = keeper.state.trigger in {Trigger.POLL, Trigger.STARTUP}
        if keeper.state.observed is None or not is_poll or keeper.write_failures:
            return None
        answer = await self._sharing.consult(claim=keeper.retry_at > _now())
        if answer is Claim.OURS or keeper.state.announced or keeper.state.nudged:
            return None
        keeper.state = reconcile.begin(keeper.state)
        keeper.retry_at = math.inf
        if not isinstance(answer, Check):
            return self._sharing.look_again_s
        await self._adopt(answer)
        return math.inf

    async def _adopt(self, check: Check) -> None:
        if await self._keeper.write(lambda: self._keeper.confirm(check.at)):
            self._sharing.adopted(check)
            self._telemetry.poll_spared(self._sdk_key)

    async def consider(self, record: Record, opinion: Opinion) -> None:
        """Do with a datafile that another pod shares what it deserves."""
        keeper, offer = self._keeper, offered(record.head, _now())
        match opinion:
            case Opinion.TAKE:
                if await keeper.write(lambda: keeper.take(record, offer)):
                    self._sharing.taken(record)
            case Opinion.JOIN:
                keeper.state = offers.join(keeper.state, offer)
            case Opinion.ASK:
                keeper.state = offers.ask(keeper.state, offer)
                if not keeper.state.due:
                    keeper.retry_at = min(keeper.retry_at, _now() + offers.ASK_AGAIN_S)
                self._telemetry.bus_record_questioned(self._sdk_key, record.found.revision, keeper.have)
            case Opinion.IGNORE:
                pass

    def overrule(self) -> None:
        """End an offer that upstream, which has just answered, did not confirm for as long as it takes to believe a rollback."""
        if offers.is_outvoted(self._keeper.state, _now(), self._patience_s):
            self._keeper.state = offers.drop(self._keeper.state)
            self._sharing.overrule()


def _now() -> float:
    return asyncio.get_running_loop().time()
