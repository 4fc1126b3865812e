"""One step on the volume at a time, and none half begun."""

import asyncio
import gc
import threading
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

from datafile_sidecar.core.gate import AdmissionPolicy
from datafile_sidecar.core.schedule import Pace
from datafile_sidecar.core.state import RollbackPolicy
from datafile_sidecar.observe import logs
from datafile_sidecar.observe.telemetry import Telemetry
from datafile_sidecar.sync.bootstrap import Bootstrap
from datafile_sidecar.sync.fetcher import Fetcher
from datafile_sidecar.sync.store import KeyStore
from datafile_sidecar.sync.syncer import KeySyncer
from datafile_sidecar.upstream import Fetched
from datafile_sidecar.volume.directory import Volume
from datafile_sidecar.volume.status_file import Status
from tests.datafiles import minimal

KEY = "KEY1"


class SlowVolume(Volume):
    """A volume whose writes wait until they may go on."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.written: list[str] = []

    def publish(self, body: bytes, status: Status, on_renamed: Callable[[float], object] = print) -> None:
        self.begun.set()
        assert self.go_on.wait(10)
        self.written.append(status.trigger)
        super().publish(body, status, on_renamed)


class OneDatafile:
    """An upstream that serves revision 42."""

    def url(self, sdk_key: str) -> str:
        return f"http://127.0.0.1/{sdk_key}.json"

    async def fetch(self, *_: object, **__: object) -> Fetched:
        return Fetched(minimal(42), None)


async def test_a_write_that_is_cancelled_while_it_waits_has_done_nothing(tmp_path: Path) -> None:
    """A sidecar that ends while one write waits for another begins no second one, and says nothing of it."""
    (tmp_path / "bootstrap").mkdir()
    (tmp_path / "bootstrap" / f"{KEY}.json").write_bytes(minimal(7))
    volume = SlowVolume(tmp_path / "volume")
    telemetry = Telemetry(logs.configure("info", "json"), time.monotonic)
    upstream = OneDatafile()
    syncer = KeySyncer(
        store=KeyStore(KEY, volume),
        fetcher=Fetcher(
            KEY,
            source=lambda: (upstream, None),  # type: ignore[arg-type, return-value]
            poll_interval_s=60,
            random=Random(1),
            telemetry=telemetry,
        ),
        bus=None,
        bootstrap=Bootstrap(tmp_path / "bootstrap", 0.05, telemetry),
        pace=Pace(60, offset=0.5),
        policy=AdmissionPolicy(RollbackPolicy.of(900, 60)),
        random=Random(1),
        telemetry=telemetry,
    )
    running = asyncio.create_task(syncer.run())
    assert await asyncio.to_thread(volume.begun.wait, 10)  # the fetched datafile is being written
    while not syncer.store.write_lock._waiters:  # the bootstrap file waits for its turn
        await asyncio.sleep(0.005)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    gc.collect()  # a coroutine that was never awaited is reported here, and is an error in tests
    volume.go_on.set()
    async with asyncio.timeout(10):
        while not volume.written:
            await asyncio.sleep(0.005)
    assert volume.written == ["startup"]
    assert syncer.state.problem
    volume.close()
