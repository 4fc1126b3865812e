"""The datafile that the simulator serves: made from a local file, switched flag by flag, and kept over a restart."""

import json
from pathlib import Path
from typing import Any

from datafile_sidecar.cli.simulator.flags import switched
from datafile_sidecar.core.datafile import InvalidDatafileError, parse


class ServedFile:
    """A local datafile, read when its stat has changed. The served copy has its own revisions. The file is never written.

    Args:
        path: the local datafile.
        sdk_key: the key that it is served for.
        state: where the served copy is kept. One that is there at the start is served in place of the local datafile, until
            that is edited. None keeps nothing.
    """

    def __init__(self, path: Path, sdk_key: str, state: Path | None = None) -> None:
        self.revision = 0
        self._path = path
        self._sdk_key = sdk_key
        self._state = state
        self._served: dict[str, Any] = {}
        self._last_stat: object = ()
        self._last_text: bytes | None = None

    def start(self) -> bytes:
        """Return the copy to serve at first. Raises InvalidDatafileError and OSError."""
        served = self.read_edit() or b""
        if self._state is None or not self._state.exists():
            return served
        kept = self._state.read_bytes()
        try:
            self.revision = parse(kept, self._sdk_key).revision
        except InvalidDatafileError as error:
            reason = f"{self._state} holds what was served before: remove it to begin anew ({error})"
            raise InvalidDatafileError(reason) from error
        self._served = _json_object(kept)
        return kept

    def read_edit(self) -> bytes | None:
        """Return the copy to serve after an edit, else None.

        Raises, once for each state of the file, InvalidDatafileError for what a sidecar would refuse and OSError for what
        can't be read.
        """
        stat = self._stat()
        if stat == self._last_stat:
            return None
        self._last_stat = stat
        text = self._path.read_bytes()
        if text == self._last_text:
            return None
        served = _json_object(text)
        if "sdkKey" in served:
            # The file may be a download of another key's datafile, which a sidecar would refuse.
            served["sdkKey"] = self._sdk_key
        own_revision = parse(json.dumps(served).encode(), self._sdk_key).revision
        first = self._last_text is None
        self._last_text = text
        return self._serve(served, max(self.revision + 1, own_revision), keep=not first)

    def switch(self, flag: str, *, on: bool) -> bytes:
        """Return the copy to serve with this flag on or off, under the next revision. Raises FlagError and OSError."""
        return self._serve(switched(self._served, flag, on=on), self.revision + 1, keep=True)

    def _serve(self, served: dict[str, Any], revision: int, *, keep: bool) -> bytes:
        body = json.dumps(served | {"revision": str(revision)}).encode()
        if keep and self._state:
            temporary = self._state.with_name(f".{self._state.name}.new")
            temporary.write_bytes(body)
            temporary.replace(self._state)
        self.revision, self._served = revision, served
        return body

    def _stat(self) -> object:
        try:
            stat = self._path.stat()
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_size, stat.st_ino


def _json_object(text: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except ValueError as error:
        raise InvalidDatafileError(f"not JSON ({error})") from error
    if not isinstance(fields, dict):
        raise InvalidDatafileError("not a JSON object")
    return fields
