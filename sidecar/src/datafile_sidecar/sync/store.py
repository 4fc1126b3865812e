"""One key's datafile on the volume: what is there, since when and why, and the steps that change it."""

import asyncio
import hashlib
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from datafile_sidecar.core import datafile
from datafile_sidecar.core.datafile import Datafile
from datafile_sidecar.volume.directory import Status, Volume, VolumeError, rfc3339

_REFRESH_S = 1.0
_KEPT_CHANGES = 10


@dataclass(slots=True)
class Moments:
    """When things happened to a key, in Unix seconds."""

    webhook: float | None = None
    fetched: float | None = None
    published: float | None = None
    checked: float | None = None


class Publication:
    """The published datafile of one SDK key. Each step runs in a thread, one at a time; one that fails leaves all as it was."""

    def __init__(self, sdk_key: str, volume: Volume, now: Callable[[], float] = time.time) -> None:
        """`now` gives Unix seconds."""
        self.sdk_key = sdk_key
        self.moments = Moments()
        self.project_id: str | None = None
        self._volume = volume
        self.now = now
        self._status: Status | None = None
        self._changes: deque[dict[str, Any]] = deque(maxlen=_KEPT_CHANGES)

    @property
    def is_intact(self) -> bool:
        """Whether what was published or loaded is still there, untouched."""
        return self._volume.is_intact(self.sdk_key)

    def view(self) -> dict[str, Any]:
        """This key's part of `/status`, as far as it concerns the volume."""
        status, moments = self._status, self.moments
        return {
            "revision": status and status.revision,
            "sha256": status and status.sha256,
            "size": status and status.size,
            "trigger": status and status.trigger,
            "generation": status and status.generation,
            "webhook": rfc3339(moments.webhook),
            "fetched": rfc3339(moments.fetched),
            "published": rfc3339(moments.published),
            "checked": rfc3339(moments.checked),
            "changes": list(self._changes),
        }

    async def load(self) -> tuple[Datafile, int] | None:
        """What an earlier sidecar left, and its generation; None where there is nothing.

        Raises VolumeError or InvalidDatafileError for a file that can't be used; it stays where it is until something better comes.
        """
        kept = await asyncio.to_thread(self._volume.load, self.sdk_key, datafile.MAX_BYTES)
        if kept is None:
            return None
        found = await asyncio.to_thread(datafile.parse, kept.body, self.sdk_key)
        if kept.status is not None and kept.status.sha256 == found.sha256:
            self._status = msgspec.structs.replace(
                kept.status, sdk_key=self.sdk_key, revision=found.revision, size=found.size
            )
            self.moments = Moments(kept.status.webhook, kept.status.fetched, kept.status.published, kept.status.checked)
        else:
            self._status = self._describe(found, "startup", _generation(found, kept.status))
        self.project_id = found.project_id
        return found, self._status.generation

    async def publish(self, found: Datafile, trigger: str, generation: int, *, fetched: float | None) -> None:
        """Rename a datafile into place that upstream served at that time, None where it did not. Raises VolumeError."""
        moments = replace(self.moments, fetched=fetched, checked=fetched, published=self.now())
        status = self._describe(found, trigger, generation, moments)
        await asyncio.to_thread(self._volume.publish, found.body, status)
        webhook = self.moments.webhook
        self._status, self.moments, self.project_id = status, replace(moments, webhook=webhook), found.project_id

    def note_change(self, propagation_s: float | None) -> None:
        """Keep in mind what was just published, and how long after the webhook that announced it, if one did."""
        if self._status is not None:
            took_s = None if propagation_s is None else round(propagation_s, 4)
            what = {"revision": self._status.revision, "trigger": self._status.trigger}
            self._changes.append({**what, "published": rfc3339(self._status.published), "propagation_s": took_s})

    def note_webhook(self) -> None:
        """A webhook came for this key."""
        self.moments.webhook = self.now()

    async def body(self, sha256: str) -> bytes | None:
        """The bytes on the volume, None where they are not those with this digest."""
        try:
            body = await asyncio.to_thread(self._volume.read, self.sdk_key, datafile.MAX_BYTES)
        except VolumeError:
            return None
        digest = await asyncio.to_thread(hashlib.sha256, body)
        return body if digest.hexdigest() == sha256 else None

    async def confirm(self, at: float | None = None) -> None:
        """Note that upstream serves what is there, or did at that time, on the volume at most once a second. Raises VolumeError."""
        written = self._status.checked if self._status else None
        self.moments.checked = self.now() if at is None else at
        if self._status is not None and not 0 <= self.moments.checked - (written or 0) < _REFRESH_S:
            status = msgspec.structs.replace(self._status, checked=self.moments.checked, webhook=self.moments.webhook)
            await asyncio.to_thread(self._volume.refresh, status)
            self._status = status

    def _describe(self, found: Datafile, trigger: str, generation: int, moments: Moments | None = None) -> Status:
        at = moments or self.moments
        return Status(
            sdk_key=self.sdk_key,
            revision=found.revision,
            sha256=found.sha256,
            size=found.size,
            trigger=trigger,
            generation=generation,
            webhook=at.webhook,
            fetched=at.fetched,
            published=at.published,
            checked=at.checked,
        )


def _generation(found: Datafile, status: Status | None) -> int:
    """The generation of a datafile whose status file is another's: the writer died between the two renames.

    Only going back raises the generation, so the datafile that stayed is of the one before if it is newer than what was to come.
    """
    if status is None:
        return 0
    return max(0, status.generation - (status.revision < found.revision))
