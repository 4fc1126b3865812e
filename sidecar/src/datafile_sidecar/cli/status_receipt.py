"""The receipt of `status --wait-for-revision`: what was proven, about whom and when, as a JSON file."""

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datafile_sidecar.cli.command import CommandError
from datafile_sidecar.core.fleet_status import StatusResponse
from datafile_sidecar.core.times import rfc3339
from datafile_sidecar.core.wait_target import WaitTarget

_NOTE = "Not signed: whoever can write this file, to the bus, or in the sidecars' place can forge it."


@dataclass(frozen=True, slots=True)
class Receipt:
    """A file that exists only after a yes. `source` says whom the command asked."""

    path: Path
    source: str

    def clear(self) -> None:
        """Remove the receipt of an earlier run. Raises CommandError where that fails."""
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            raise self._failed(error) from error

    def write(self, responses: Sequence[StatusResponse], target: WaitTarget) -> None:
        """Write what is proven, at once or not at all. Raises CommandError where that fails."""
        temporary = self.path.with_name(f".{self.path.name}.tmp")
        try:
            temporary.write_text(json.dumps(self._fields(responses, target), indent=2) + "\n")
            temporary.rename(self.path)
        except OSError as error:
            raise self._failed(error) from error

    def _fields(self, responses: Sequence[StatusResponse], target: WaitTarget) -> dict[str, Any]:
        summary = target.summary(responses)
        heard = [one for one in responses if one.status and one.problem is None]
        keys = [key for one in heard if one.status and (key := one.status.keys.get(target.sdk_key))]
        datafiles = Counter((key.revision or 0, key.sha256) for key in keys)
        applied = [key.applied for key in keys]
        known = [at for at in applied if at is not None]
        is_known = bool(known) and len(known) == len(applied)
        return {
            "version": 1,
            "signed": False,
            "note": _NOTE,
            "source": self.source,
            "sdk_key": target.sdk_key,
            "wanted_revision": target.wanted(responses),
            "upstream_revision": target.upstream_revision,
            "workers_required": target.workers_required,
            "datafiles": [
                {"revision": revision, "sha256": sha256, "pods": pods}
                for (revision, sha256), pods in sorted(datafiles.items(), key=lambda item: item[0][0])
            ],
            "pods": summary.pods,
            "workers": summary.workers,
            "first_applied": rfc3339(min(known)) if is_known else None,
            "last_applied": rfc3339(max(known)) if is_known else None,
            "known": rfc3339(time.time()),
            "excused": list(summary.excused),
        }

    def _failed(self, error: OSError) -> CommandError:
        return CommandError(f"the receipt {self.path} can't be written: {error.strerror or error}", exit_status=1)
