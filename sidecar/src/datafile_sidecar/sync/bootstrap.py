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
        while is_needed() and (body := await asyncio.to_thread(self.read, sdk_key)) is not None:
            try:
                parsed = await asyncio.to_thread(datafile.parse, body, sdk_key)
            except InvalidDatafileError as problem:
                return self.telemetry.datafile_unusable(sdk_key, "bootstrap", str(problem))
            if await publish(parsed):
                return None
            failures += 1
            await asyncio.sleep(backoff.failure_pause(failures, 0.0))
        return None

    def read(self, sdk_key: str) -> bytes | None:
        """Return the file's bytes, not validated; log a warning and return None where there is no such file."""
        if self.directory is None:
            return None
        try:
            with (self.directory / f"{sdk_key}.json").open("rb") as file:
                return file.read(datafile.MAX_BYTES + 1)
        except OSError as problem:
            self.telemetry.datafile_unusable(sdk_key, "bootstrap", f"{problem.filename}: {problem.strerror}")
            return None
