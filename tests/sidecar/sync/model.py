"""One sidecar's loop in virtual time, with a stand-in for upstream: what the state machines run."""

import asyncio
import json
import shutil
import tempfile
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from random import Random

from datafile_sidecar.core.conditional import Validators
from datafile_sidecar.core.gate import AdmissionPolicy
from datafile_sidecar.core.schedule import Pace
from datafile_sidecar.core.source_rotation import CDN
from datafile_sidecar.core.state import RollbackPolicy, Trigger
from datafile_sidecar.observe import logs
from datafile_sidecar.observe.telemetry import Telemetry
from datafile_sidecar.sync.bootstrap import Bootstrap
from datafile_sidecar.sync.fetcher import Fetcher
from datafile_sidecar.sync.store import KeyStore
from datafile_sidecar.sync.syncer import KeySyncer
from datafile_sidecar.upstream import Fetched, FetchError, NotModified
from datafile_sidecar.volume.directory import Volume, VolumeError
from datafile_sidecar.volume.status_file import Status
from tests.datafiles import minimal
from tests.sidecar.sync.virtual_time import VirtualTimeLoop

KEY = "KEY1"
ORIGIN = "origin"
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""Where a file system syncs in no time, if there is one: thousands of publications go by in virtual seconds."""
POLL_S = 60.0
ROLLBACK_S = 900.0


class FakeOptimizely:
    """What CDN and origin serve, as a history of (from when, revision); it fails while `fails_until` lies ahead."""

    def __init__(self, loop: VirtualTimeLoop) -> None:
        self._loop = loop
        self.history: dict[str, list[tuple[float, int]]] = {CDN: [(0.0, 10)], ORIGIN: [(0.0, 10)]}
        self.fails_until = {CDN: 0.0, ORIGIN: 0.0}
        self.latency_s = 0.01
        self.failure = FetchError("server_error", "it is down")
        self.fetches: list[tuple[float, str]] = []
        self.answers: list[tuple[float, int]] = []
        self.validates_by_seconds = False

    def url(self, _: str) -> str:
        return CDN

    def permitted(self, url: str, _: str) -> bool:
        return url == ORIGIN

    def serves(self, place: str) -> int:
        """The revision that this place serves now."""
        return next(revision for at, revision in reversed(self.history[place]) if at <= self._loop.time())

    async def fetch(
        self, url: str, *, sdk_key: str, validators: Validators | None = None, token: str | None = None, **_: object
    ) -> Fetched | NotModified:
        self.fetches.append((self._loop.time(), url))
        await asyncio.sleep(self.latency_s)
        if self._loop.time() < self.fails_until[url]:
            raise self.failure
        revision = self.serves(url)
        self.answers.append((self._loop.time(), revision))
        if self.validates_by_seconds:
            mark = Validators(url=url, last_modified="Sat, 28 Nov 2026 12:00:00 GMT")
        else:
            mark = Validators(url=url, etag=str(revision))
        if validators == mark:
            return NotModified()
        return Fetched(minimal(revision), mark)


class WatchedVolume(Volume):
    """A volume that remembers what was renamed into place, so that nothing passes between two looks."""

    published: list[Status]
    on_publish: Callable[[Status], None] = staticmethod(lambda _: None)
    refuses = 0

    def publish(self, body: bytes, status: Status, on_renamed: Callable[[float], object] = print) -> None:
        if self.refuses:
            self.refuses -= 1
            raise VolumeError("no space left")
        super().publish(body, status, on_renamed)
        self.published.append(status)
        self.on_publish(status)


class House:
    """One sidecar's loop on a directory, which can be ended and begun again."""

    def __init__(self, seed: int = 1) -> None:
        self.seed = seed
        self.loop = VirtualTimeLoop()
        self.optimizely = FakeOptimizely(self.loop)
        self.publications: list[Status] = []
        self.published_at: list[float] = []
        self.directory = Path(tempfile.mkdtemp(dir=MEMORY))
        self.bootstrap_dir: Path | None = None
        self.bootstrap_after_s = 5.0
        self.clock_offset_s = 0.0
        self.log = open(self.directory / "log", "w")  # noqa: SIM115 - closed in `close`
        self.begin()

    def begin(self) -> None:
        self.volume = WatchedVolume(self.directory)
        self.volume.published = self.publications
        self.volume.on_publish = lambda _: self.published_at.append(self.loop.time())
        telemetry = Telemetry(logs.configure("info", "json", self.log), self.loop.time)
        fetcher = Fetcher(
            KEY,
            source=lambda: (self.optimizely, None),  # type: ignore[arg-type, return-value]
            poll_interval_s=POLL_S,
            random=Random(self.seed),
            telemetry=telemetry,
        )
        self.syncer = KeySyncer(
            store=KeyStore(KEY, self.volume, self.unix_now, self.loop.time),
            fetcher=fetcher,
            bus=None,
            bootstrap=Bootstrap(self.bootstrap_dir, self.bootstrap_after_s, telemetry),
            pace=Pace(POLL_S, 0.5),
            policy=AdmissionPolicy(RollbackPolicy.of(ROLLBACK_S, POLL_S)),
            random=Random(self.seed),
            telemetry=telemetry,
        )
        self.task = self.loop.create_task(self.syncer.run())

    def end(self) -> None:
        self.task.cancel()
        self.loop.run_until_complete(asyncio.gather(self.task, return_exceptions=True))
        self.volume.close()

    def close(self) -> None:
        self.end()
        self.loop.close()
        self.log.close()
        shutil.rmtree(self.directory)

    def wait(self, seconds: float) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))

    def announce(
        self, revision: int, trigger: Trigger = Trigger.WEBHOOK, urls: tuple[str, ...] = (ORIGIN, CDN)
    ) -> bool:
        async def inside() -> bool:
            return self.syncer.announce(revision, urls, trigger)

        return self.loop.run_until_complete(inside())

    def hint(self) -> None:
        async def inside() -> None:
            self.syncer.hint(Trigger.WEBHOOK)

        self.loop.run_until_complete(inside())

    def unix_now(self) -> float:
        """The wall clock, which may be set."""
        return self.loop.time() + 1_800_000_000 + self.clock_offset_s

    def checked_at(self) -> float:
        """What `/status` says of the last check, as a time of the wall clock."""
        return datetime.fromisoformat(self.syncer.status()["checked"]).timestamp()

    @property
    def published(self) -> int | None:
        """The revision on the volume, read as a consumer would."""
        try:
            return int(json.loads((self.directory / f"{KEY}.json").read_text())["revision"])
        except FileNotFoundError:
            return None
