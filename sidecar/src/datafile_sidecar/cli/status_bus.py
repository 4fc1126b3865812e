"""The client of `status` for a bus: reads what each pod left there, and again when that has changed."""

import asyncio
from collections.abc import Sequence

from datafile_sidecar.bus.errors import BrokerError, explained
from datafile_sidecar.bus.fleet_reader import FleetReader, Reading, fleet_reader
from datafile_sidecar.cli.status_client import DEFAULT_TIMEOUT_S, ONE_ROUND_S, Progress
from datafile_sidecar.core import fleet_roster
from datafile_sidecar.core.fleet_roster import Excuses
from datafile_sidecar.core.fleet_status import StatusResponse, printable
from datafile_sidecar.core.wait_target import WaitTarget

_LOOK_S = 0.05
_READ_EVERY_S = 1.0
_READ_MANY_EVERY_S = 5.0
_MANY = 1000
_AGAIN_S = 0.5


class BusStatusClient:
    """Reads the fleet of each SDK key, with the bus alone."""

    def __init__(
        self, url: str, sdk_keys: Sequence[str], excuses: Excuses | None = None, *, expected: int | None = None
    ) -> None:
        """Read nothing yet.

        Args:
            url: The broker.
            sdk_keys: Whose pods to read.
            excuses: Which silent pods need not be heard.
            expected: How many pods must be heard, None when that is not known.
        """
        self._url = url
        self._sdk_keys = sdk_keys
        self._excuses = excuses or Excuses()
        self._expected = expected

    async def ask(self, timeout_s: float = DEFAULT_TIMEOUT_S) -> list[StatusResponse]:
        """Read once. Whatever fails or can't be known is a response with a problem."""
        responses: list[StatusResponse] = []
        try:
            async with asyncio.timeout(timeout_s), fleet_reader(self._url) as reader:
                for sdk_key in self._sdk_keys:
                    reading = await reader.read(sdk_key)
                    responses += self._responses(reading)
                    await self._forget(reader, reading)
        except (BrokerError, OSError) as error:
            responses.append(self._failed(error))
        return responses

    async def wait(
        self, target: WaitTarget, timeout_s: float, on_progress: Progress = lambda *_: None
    ) -> tuple[list[StatusResponse], WaitTarget]:
        """Read until all have confirmed the target or the time is over, at least once.

        Returns:
            The last responses, and the target that they were held against.

        Args:
            target: What to wait for.
            timeout_s: 0 for a single round, which may take two seconds.
            on_progress: called with the responses and the target after each round.
        """
        deadline = _now() + (timeout_s or ONE_ROUND_S)
        responses: list[StatusResponse] = []
        while True:
            try:
                async with asyncio.timeout_at(deadline), fleet_reader(self._url) as reader:
                    while True:
                        started, reading = _now(), await reader.read(target.sdk_key)
                        responses = self._responses(reading)
                        target = target.after(responses)
                        if not target.lagging(responses):
                            await self._forget(reader, reading)
                            return responses, target
                        if not timeout_s:
                            return responses, target
                        on_progress(responses, target)
                        await _until_worth_reading(reader, reading, target, responses, started)
            except (BrokerError, OSError) as error:
                is_over = _now() + _AGAIN_S >= deadline
                if not responses or not is_over:
                    responses = [self._failed(error)]
                if is_over:
                    return responses, target
            on_progress(responses, target)
            await asyncio.sleep(_AGAIN_S)

    def _responses(self, reading: Reading) -> list[StatusResponse]:
        responses = fleet_roster.responses(reading.roster, self._excuses)
        return [*responses, *fleet_roster.doubts(reading.roster, responses, expected=self._expected)]

    async def _forget(self, reader: FleetReader, reading: Reading) -> None:
        if names := fleet_roster.forgotten(reading.roster, self._excuses):
            await reader.forget(reading.roster.sdk_key, names)

    def _failed(self, error: Exception) -> StatusResponse:
        return StatusResponse("bus", problem=printable(explained(self._url, error)))


async def _until_worth_reading(
    reader: FleetReader, reading: Reading, target: WaitTarget, responses: Sequence[StatusResponse], started: float
) -> None:
    """Wait until a yes is possible: each pod that lags has to write once, unless it is time that it lacks."""
    behind = [one for one in responses if target.lagging([one])]
    lacks_time = any(one.problem is not None for one in behind)
    again_s = _READ_MANY_EVERY_S if len(responses) > _MANY else _READ_EVERY_S
    moved_at: float | None = None
    while True:
        await asyncio.sleep(_LOOK_S)
        moment = await reader.moment(target.sdk_key)
        if moved_at is None and moment != reading.moment:
            moved_at = _now()
        if _now() - started < _READ_EVERY_S:
            continue
        if lacks_time and _now() - started >= again_s:
            return
        changes = moment.changes - reading.moment.changes
        if moved_at is not None and (changes >= len(behind) or _now() - moved_at >= _READ_EVERY_S):
            return


def _now() -> float:
    return asyncio.get_running_loop().time()
