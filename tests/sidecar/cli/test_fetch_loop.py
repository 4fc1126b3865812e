"""The loop of `fetch` on a slow machine."""

import asyncio
import json
import os
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from datafile_sidecar.cli.fetch_loop import fetch_and_print
from datafile_sidecar.cli.simulator import Simulator
from datafile_sidecar.config import settings
from datafile_sidecar.config.credentials import Tokens
from datafile_sidecar.observe import logs
from datafile_sidecar.observe.telemetry import Telemetry
from datafile_sidecar.volume.directory import Volume
from tests import datafiles


class SlowExecutor(ThreadPoolExecutor):
    """Starts each call a tenth of a second late, as on a busy machine."""

    def __init__(self) -> None:
        super().__init__(1)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        super().submit(time.sleep, 0.1)
        return super().submit(fn, *args, **kwargs)


async def test_status_file_is_written(tmp_path: Path) -> None:
    """A confirmed datafile has its status file when the command ends, also when the disk or the machine is slow."""
    asyncio.get_running_loop().set_default_executor(SlowExecutor())
    (tmp_path / "KEY1.json").write_bytes(datafiles.minimal(43))
    async with Simulator({"KEY1": datafiles.minimal(43)}, secret=None) as optimizely:
        environ = {"DATAFILE_SDK_KEYS": "KEY1", "DATAFILE_URL_TEMPLATE": optimizely.template}
        loaded = settings.load(environ)
        with open(os.devnull, "w") as log:
            telemetry = Telemetry(logs.configure("info", "json", log), time.monotonic)
            work = fetch_and_print(
                loaded, environ, Tokens(None, ["KEY1"]), Volume(tmp_path), telemetry, timeout_s=10, allow_stale=False
            )
            assert await work == 0
    assert json.loads((tmp_path / "KEY1.status.json").read_text())["checked"]
