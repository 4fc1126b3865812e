"""One step on the volume at a time, and none half begun."""

import asyncio
import gc
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from datafile_sidecar.core.patience import Patience
from datafile_sidecar.observe import logs
from datafile_sidecar.observe.telemetry import Telemetry
from datafile_sidecar.sync.keeper import Keeper
from datafile_sidecar.sync.store import Publication
from datafile_sidecar.volume.directory import Volume


@pytest.fixture
def keeper(tmp_path: Path) -> Iterator[Keeper]:
    volume = Volume(tmp_path)
    telemetry = Telemetry(logs.configure("info", "json"), time.monotonic)
    patience = Patience(insist_s=900, apart_s=120)
    yield Keeper(Publication("KEY1", volume), patience=patience, random=Random(1), telemetry=telemetry)
    volume.close()


async def test_who_is_cancelled_while_waiting_has_done_nothing(keeper: Keeper) -> None:
    """A sidecar that ends while one write waits for another begins no second one, and says nothing of it."""
    begun, go_on, done = asyncio.Event(), asyncio.Event(), []

    async def slow() -> bool:
        begun.set()
        await go_on.wait()
        done.append("slow")
        return True

    async def waiting() -> bool:
        done.append("waiting")
        return True

    first = asyncio.create_task(keeper.write(slow))
    await begun.wait()
    second = asyncio.create_task(keeper.write(waiting))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    gc.collect()  # a coroutine that was never awaited is reported here, and is an error in tests
    go_on.set()
    assert await first
    assert done == ["slow"]
    assert await keeper.write(waiting)
