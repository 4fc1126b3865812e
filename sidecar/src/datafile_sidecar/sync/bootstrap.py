"""The datafiles to begin with in an outage: files in the image or on a mount, one for each SDK key."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from datafile_sidecar.core import backoff, datafile
from datafile_sidecar.core.datafile import Datafile, InvalidDatafileError
from datafile_sidecar.observe.telemetry import Telemetry


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """`<sdk_key>.json` in a directory; without a directory, there are none."""

    directory: Path | None
    after_s: float
    telemetry: Telemetry
    _one_at_a_time: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)
    """All keys begin at the same moment; together, their files may be more than fits into memory."""

    async def run(
        self, sdk_key: str, is_needed: Callable[[], bool], publish: Callable[[Datafile], Awaitable[bool]]
    ) -> None:
        """Hand the file of a key to `publish` after `after_s`, if it is still needed; again while that returns False."""
        failures = 0
        await asyncio.sleep(self.after_s)
        while is_needed() and not await self._publish(sdk_key, publish):
            failures += 1
            await asyncio.sleep(backoff.failure_pause(failures, 0.0))

    async def _publish(self, sdk_key: str, publish: Callable[[Datafile], Awaitable[bool]]) -> bool:
        """Hand over the file of a key; False where it has to be tried again."""
        async with self._one_at_a_time:
            parsed = await asyncio.to_thread(self._load, sdk_key)
            return parsed is None or await publish(parsed)

    def _load(self, sdk_key: str) -> Datafile | None:
        """Return the datafile in the file; log a warning and return None where there is no valid one."""
        if self.directory is None:
            return None
        try:
            with (self.directory / f"{sdk_key}.json").open("rb") as file:
                return datafile.parse(file.read(datafile.MAX_BYTES + 1), sdk_key)
        except OSError as problem:
            reason = f"{problem.filename}: {problem.strerror}"
        except InvalidDatafileError as problem:
            reason = str(problem)
        self.telemetry.datafile_unusable(sdk_key, "bootstrap", reason)
        return None
