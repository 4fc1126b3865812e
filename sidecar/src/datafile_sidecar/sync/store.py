"""One key's datafile on the volume, and the record of it: the only way to the file.

Each step runs in a thread. One that fails leaves everything as it was. Times are Unix seconds, unless others are named.
"""

import asyncio
import hashlib
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from datafile_sidecar.core import datafile
from datafile_sidecar.core.datafile import Datafile, InvalidDatafileError
from datafile_sidecar.core.state import State
from datafile_sidecar.core.times import rfc3339
from datafile_sidecar.volume.directory import Volume, VolumeError
from datafile_sidecar.volume.held_file import Replaced
from datafile_sidecar.volume.status_file import TIMES, Status

_REFRESH_S = 1.0
_CLOCK_STEP_S = 2.0
_KEPT_CHANGES = 10


@dataclass(frozen=True, slots=True)
class Kept:
    """What an earlier sidecar left: the record of its datafile, and why that is not there any more, None where it is."""

    record: Status | None
    problem: str | None


class KeyStore:
    """The file of one SDK key. Hold `write_lock` over a decision and the write that follows from it."""

    def __init__(
        self,
        sdk_key: str,
        volume: Volume,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
        on_published: Callable[[int, str, float | None], None] = lambda *_: None,
    ) -> None:
        """Build the store; `load` reads what is there.

        Args:
            now: Returns Unix seconds.
            clock: Returns seconds of a clock that is never set.
            on_published: Called on the event loop with the revision and digest of what readers see from now on, and the moment of
                the rename in seconds of `time.monotonic`; None where it was there before.
        """
        self.sdk_key = sdk_key
        self.now = now
        self.write_lock = asyncio.Lock()
        self.project_id: str | None = None
        self.environment_key: str | None = None
        self._volume = volume
        self._record: Status | None = None
        self._refreshed = 0.0
        self._webhook: float | None = None
        self._clock = clock
        self._on_published = on_published
        self._clock_offset = now() - clock()
        self._changes: deque[dict[str, Any]] = deque(maxlen=_KEPT_CHANGES)

    @property
    def checked(self) -> float | None:
        """When upstream was last seen to serve exactly this, None where it never was."""
        return self._record.checked if self._record else None

    def view(self, state: State) -> dict[str, Any]:
        """Return this key's part of `/status`, beside what is known of it."""
        fields = self._record.fields() if self._record else dict.fromkeys(Status.__struct_fields__)
        del fields["sdk_key"], fields["rolled_back_from"]
        if state.is_missing:
            fields["revision"] = None
        first = {"revision": fields["revision"], "target_revision": state.target}  # the order in docs/contract.md
        last = {"webhook": rfc3339(self._webhook), "changes": list(self._changes), "last_error": state.error}
        return first | fields | last

    async def is_intact(self) -> bool:
        """Tell whether what was published or loaded is still there."""
        sha256 = self._record.sha256 if self._record else ""
        return await asyncio.to_thread(self._volume.is_intact, self.sdk_key, sha256, datafile.MAX_BYTES)

    async def load(self) -> Kept:
        """Read what an earlier sidecar left. A datafile that can't be used stays until a better one comes."""
        try:
            kept = await asyncio.to_thread(self._volume.load, self.sdk_key, datafile.MAX_BYTES)
        except VolumeError as problem:
            return Kept(await asyncio.to_thread(self._volume.load_status, self.sdk_key), str(problem))
        status = kept.status
        if kept.body is None:
            return Kept(status, "the published file is not there any more" if status else None)
        try:
            found = await asyncio.to_thread(datafile.parse, kept.body, self.sdk_key)
        except InvalidDatafileError as problem:
            return Kept(status, str(problem))
        if status is None or status.sha256 != found.sha256:
            left = status.rolled_back_from if status else ()
            self._record = self._describe(found, "startup", _generation(found, status), left)
        else:
            self._record = _in_the_past(
                status, self.now(), sdk_key=self.sdk_key, revision=found.revision, size=found.size
            )
            self._webhook = self._webhook or self._record.webhook
            self._refreshed = self._record.checked or 0.0
        self._on_published(found.revision, found.sha256, None)
        self.project_id, self.environment_key = found.project_id, found.environment_key
        return Kept(self._record, None)

    async def publish(
        self,
        found: Datafile,
        trigger: str,
        generation: int,
        rolled_back_from: tuple[str, ...],
        *,
        fetched: float | None,
    ) -> Replaced | None:
        """Rename a datafile into place.

        Args:
            rolled_back_from: The digests that rollbacks went away from: a restart must not forget them.
            fetched: When upstream served it, None where it did not.

        Returns:
            The datafile that it replaced, and the new one; None where none was there that this sidecar had published or loaded.

        Raises:
            VolumeError: It could not be written; the old one is still there.
        """
        times = {"fetched": fetched, "checked": fetched, "published": self.now()}
        record = self._describe(found, trigger, generation, rolled_back_from, **times)
        loop, before = asyncio.get_running_loop(), self._record

        def renamed(at: float) -> None:
            self._record, self._refreshed, self.project_id = record, fetched or 0.0, found.project_id
            self.environment_key = found.environment_key
            self._on_published(found.revision, found.sha256, at)

        replaced = await asyncio.to_thread(
            self._volume.publish, found.body, record, lambda at: loop.call_soon_threadsafe(renamed, at)
        )
        # Anything of another length was put there by others.
        return replaced if before and replaced and replaced.before.size == before.size else None

    async def note(self, generation: int, rolled_back_from: tuple[str, ...], checked: float | None = None) -> None:
        """Note what is known of the published datafile now. The volume hears of a check at most once a second.

        Args:
            checked: When upstream was seen to serve it, None where it was not.

        Raises:
            VolumeError: The status file could not be written.
        """
        if (before := self._record) is None:
            return
        checked = before.checked if checked is None else checked
        changes: dict[str, Any] = {"generation": generation, "rolled_back_from": rolled_back_from, "checked": checked}
        self._record = msgspec.structs.replace(before, webhook=self._webhook, **changes)
        is_same = (generation, rolled_back_from) == (before.generation, before.rolled_back_from)
        if not (is_same and 0 <= (checked or 0.0) - self._refreshed < _REFRESH_S):
            await self._refresh()

    async def follow_clock(self) -> bool:
        """Take the times of the record back with a clock that was set back, so that none lies in the future.

        Returns:
            Whether that was so.

        Raises:
            VolumeError: The status file could not be written.
        """
        step = self.now() - self._clock() - self._clock_offset
        if abs(step) < _CLOCK_STEP_S:
            return False
        self._clock_offset += step
        if step > 0 or self._record is None:
            return False
        times = {name: at and at + step for name in TIMES if (at := getattr(self._record, name))}
        self._record = msgspec.structs.replace(self._record, **times)
        self._webhook = self._webhook and self._webhook + step
        await self._refresh()
        return True

    async def _refresh(self) -> None:
        if self._record is not None:
            await asyncio.to_thread(self._volume.refresh, self._record)
            self._refreshed = self._record.checked or 0.0

    async def body(self, sha256: str) -> bytes | None:
        """Return the bytes on the volume, None where they are not those with this digest."""
        try:
            body = await asyncio.to_thread(self._volume.read, self.sdk_key, datafile.MAX_BYTES)
        except VolumeError:
            return None
        digest = await asyncio.to_thread(hashlib.sha256, body)
        return body if digest.hexdigest() == sha256 else None

    async def settled_body(self, sha256: str) -> bytes | None:
        """Do as `body`, after what is being decided and published now."""
        async with self.write_lock:
            return await self.body(sha256)

    def note_webhook(self) -> None:
        """Note that a webhook came for this key."""
        self._webhook = self.now()

    def note_change(self, propagation_s: float | None) -> Callable[[list[str]], None]:
        """Remember what was just published, and how long after its webhook (None where none announced it).

        Returns:
            What to call with the words for what changed, once they are known.
        """
        change: dict[str, Any] = {"what": None}
        if self._record is not None:
            took_s = None if propagation_s is None else round(propagation_s, 4)
            which = {"revision": self._record.revision, "trigger": self._record.trigger}
            change = {**which, "published": rfc3339(self._record.published), "propagation_s": took_s, **change}
            self._changes.append(change)

        def describe(what: list[str]) -> None:
            change["what"] = what

        return describe

    def _describe(
        self, found: Datafile, trigger: str, generation: int, left: tuple[str, ...], **times: float | None
    ) -> Status:
        return Status(
            sdk_key=self.sdk_key,
            revision=found.revision,
            sha256=found.sha256,
            size=found.size,
            trigger=trigger,
            generation=generation,
            rolled_back_from=left,
            webhook=self._webhook,
            **times,
        )


def _in_the_past(status: Status, now: float, **changes: Any) -> Status:
    """Return a status without times in the future, which vouch for nothing: the clock was set back since."""
    times = {name: min(at, now) for name in TIMES if (at := getattr(status, name)) is not None}
    if status.checked is not None and status.checked > now + _CLOCK_STEP_S:
        times["checked"] = None
    return msgspec.structs.replace(status, **times, **changes)


def _generation(found: Datafile, status: Status | None) -> int:
    """Return the generation of a datafile whose status file is another's: the writer died between the two renames.

    Only a rollback raises the generation, so the datafile that stayed is of the one before if it is newer than what was to come.
    """
    if status is None:
        return 0
    return max(0, status.generation - (status.revision < found.revision))
