"""One key's datafile on the volume, and the record of it: the only way to the file.

Each step runs in a thread. One that fails leaves everything as it was. Times are Unix seconds, unless others are named.
"""

import asyncio
import hashlib
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from datafile_sidecar.core import datafile
from datafile_sidecar.core.datafile import Datafile
from datafile_sidecar.core.times import rfc3339
from datafile_sidecar.volume.directory import Status, Volume, VolumeError

_REFRESH_S = 1.0
_KEPT_CHANGES = 10


class KeyStore:
    """The file of one SDK key. Hold `write_lock` over a decision and the write that follows from it."""

    def __init__(self, sdk_key: str, volume: Volume, now: Callable[[], float] = time.time) -> None:
        """Build the store; `load` reads what is there. `now` gives Unix seconds."""
        self.sdk_key = sdk_key
        self.now = now
        self.write_lock = asyncio.Lock()
        self.project_id: str | None = None
        self._volume = volume
        self._record: Status | None = None
        self._refreshed = 0.0
        self._webhook: float | None = None
        self._changes: deque[dict[str, Any]] = deque(maxlen=_KEPT_CHANGES)

    @property
    def fetched(self) -> float | None:
        """When upstream served the datafile, None where it never did."""
        return self._record.fetched if self._record else None

    @property
    def checked(self) -> float | None:
        """When upstream was last seen to serve exactly this, None where it never was."""
        return self._record.checked if self._record else None

    def view(self, *, target: int | None, error: str | None) -> dict[str, Any]:
        """Return this key's part of `/status`. `target` is the revision that should be there, `error` why it is not."""
        fields = self._record.fields() if self._record else dict.fromkeys(Status.__struct_fields__)
        del fields["sdk_key"]
        first = {"revision": fields["revision"], "target_revision": target}  # the order in docs/contract.md
        last = {"webhook": rfc3339(self._webhook), "changes": list(self._changes), "last_error": error}
        return first | fields | last

    async def is_intact(self) -> bool:
        """Tell whether what was published or loaded is still there, untouched."""
        return await asyncio.to_thread(self._volume.is_intact, self.sdk_key)

    async def load(self) -> tuple[Datafile, int] | None:
        """Read what an earlier sidecar left.

        Returns:
            The datafile and its generation, None where there is none.

        Raises:
            VolumeError: It can't be read.
            InvalidDatafileError: It is no valid datafile. It stays until a better one comes.
        """
        kept = await asyncio.to_thread(self._volume.load, self.sdk_key, datafile.MAX_BYTES)
        if kept is None:
            return None
        found = await asyncio.to_thread(datafile.parse, kept.body, self.sdk_key)
        status = kept.status
        if status is None or status.sha256 != found.sha256:
            self._record = self._describe(found, "startup", _generation(found, status))
        else:
            self._record = msgspec.structs.replace(
                status, sdk_key=self.sdk_key, revision=found.revision, size=found.size
            )
            self._webhook = self._webhook or status.webhook
            self._refreshed = status.checked or 0.0
        self.project_id = found.project_id
        return found, self._record.generation

    async def publish(self, found: Datafile, trigger: str, generation: int, *, fetched: float | None) -> float:
        """Rename a datafile into place.

        Args:
            fetched: When upstream served it, None where it did not.

        Returns:
            When it was renamed, in seconds of `time.monotonic`.

        Raises:
            VolumeError: It could not be written; the old one is still there.
        """
        record = self._describe(found, trigger, generation, fetched=fetched, checked=fetched, published=self.now())
        renamed_at = await asyncio.to_thread(self._volume.publish, found.body, record)
        self._record, self._refreshed, self.project_id = record, fetched or 0.0, found.project_id
        return renamed_at

    async def confirm(self, at: float | None = None) -> None:
        """Note that upstream serves what is there, or did at that time. The volume hears of it at most once a second.

        Raises:
            VolumeError: The status file could not be written.
        """
        checked = self.now() if at is None else at
        if self._record is None:
            return
        self._record = msgspec.structs.replace(self._record, checked=checked, webhook=self._webhook)
        if not 0 <= checked - self._refreshed < _REFRESH_S:
            await asyncio.to_thread(self._volume.refresh, self._record)
            self._refreshed = checked

    async def body(self, sha256: str) -> bytes | None:
        """Return the bytes on the volume, None where they are not those with this digest."""
        try:
            body = await asyncio.to_thread(self._volume.read, self.sdk_key, datafile.MAX_BYTES)
        except VolumeError:
            return None
        digest = await asyncio.to_thread(hashlib.sha256, body)
        return body if digest.hexdigest() == sha256 else None

    def note_webhook(self) -> None:
        """Note that a webhook came for this key."""
        self._webhook = self.now()

    def note_change(self, propagation_s: float | None) -> None:
        """Remember what was just published, and how long after its webhook (None where none announced it)."""
        if self._record is not None:
            took_s = None if propagation_s is None else round(propagation_s, 4)
            what = {"revision": self._record.revision, "trigger": self._record.trigger}
            self._changes.append({**what, "published": rfc3339(self._record.published), "propagation_s": took_s})

    def _describe(self, found: Datafile, trigger: str, generation: int, **times: float | None) -> Status:
        return Status(
            sdk_key=self.sdk_key,
            revision=found.revision,
            sha256=found.sha256,
            size=found.size,
            trigger=trigger,
            generation=generation,
            webhook=self._webhook,
            **times,
        )


def _generation(found: Datafile, status: Status | None) -> int:
    """Return the generation of a datafile whose status file is another's: the writer died between the two renames.

    Only a rollback raises the generation, so the datafile that stayed is of the one before if it is newer than what was to come.
    """
    if status is None:
        return 0
    return max(0, status.generation - (status.revision < found.revision))
