"""The datafiles to begin with in an outage: files that somebody put into the image or mounted, one for each SDK key."""

from dataclasses import dataclass
from pathlib import Path

from datafile_sidecar.core import datafile
from datafile_sidecar.observe.telemetry import Telemetry


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """`<sdk_key>.json` in a directory; without a directory, there are none."""

    directory: Path | None
    telemetry: Telemetry

    def read(self, sdk_key: str) -> bytes | None:
        """The file's bytes, which nobody has validated; None, and a word about it, where there is no such file."""
        if self.directory is None:
            return None
        try:
            with (self.directory / f"{sdk_key}.json").open("rb") as file:
                return file.read(datafile.MAX_BYTES + 1)
        except OSError as problem:
            self.telemetry.datafile_unusable(sdk_key, "bootstrap", f"{problem.filename}: {problem.strerror}")
            return None
