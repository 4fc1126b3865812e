"""The datafiles to begin with in an outage: files in the image or on a mount, one for each SDK key."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
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

    async def run(
        self, sdk_key: str, is_needed: Callable[[], bool], publish: Callable[[Datafile], Awaitable[bool]]
    ) -> None:
        """Hand the file of a key to `publish` after `after_s`, if it is still needed; again while that returns False."""
        failures = 0
        await asyncio.sleep(self.after_s)
        while is_needed() and (parsed := await asyncio.to_thread(self._load, sdk_key)) and not await publish(parsed):
            failures += 1
            await asyncio.sleep(backoff.failure_pause(failures, 0.0))

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
