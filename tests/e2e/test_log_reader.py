"""A real sidecar whose log is not read: what a container runtime does when it hangs, or when its disk is full."""

import asyncio
import fcntl
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import ClientError, ClientSession

from datafile_sidecar.cli.simulator import Simulator, webhook_body
from datafile_sidecar.core.webhook import signature
from tests.broker import free_port
from tests.datafiles import minimal
from tests.stopwatch import Stopwatch

KEY, SECRET = "KEY1", b"test-secret-1"


class Unread:
    """A sidecar that logs into a pipe of one page, which is read only when the test says so."""

    def __init__(self, process: asyncio.subprocess.Process, log: int, url: str, webhook_url: str) -> None:
        self.process = process
        self._log = log
        self._url, self._webhook_url = url, webhook_url

    async def post(self, times: int) -> None:
        """So many webhooks, each of which makes a line; all are answered in time, and so is the probe."""
        stopwatch = Stopwatch(self.process.pid)
        async with ClientSession() as session:
            for number in range(times):
                body = webhook_body(2 + number, cdn_url=f"/datafiles/{KEY}.json")
                headers = {"X-Hub-Signature": signature(body, SECRET)}
                async with session.post(self._webhook_url, data=body, headers=headers) as answer:
                    assert answer.status == 202
            async with session.get(f"{self._url}/livez") as answer:
                assert answer.status == 200
        assert stopwatch.seconds() < 5

    async def read(self) -> list[dict[str, Any]]:
        """All lines until the process has ended."""

        def until_end() -> bytes:
            with open(self._log, "rb", closefd=False) as log:
                return log.read()

        return [json.loads(line) for line in (await asyncio.to_thread(until_end)).splitlines()]

    async def stop(self) -> int:
        """SIGTERM, and the exit status; fails where it takes longer than a pod may give, not counting the machine's load."""
        stopwatch = Stopwatch(self.process.pid)
        self.process.terminate()
        status = await stopwatch.watch(self.process.wait())
        assert stopwatch.seconds() < 2
        return status


@asynccontextmanager
async def unread(directory: Path) -> AsyncIterator[Unread]:
    webhook, admin = free_port(), free_port()
    async with Simulator({KEY: minimal(1)}, secret=SECRET) as optimizely:
        environment = {
            "DATAFILE_SDK_KEYS": KEY,
            "DATAFILE_DIR": str(directory),
            "DATAFILE_URL_TEMPLATE": optimizely.template,
            "DATAFILE_WEBHOOK_SECRETS": SECRET.decode(),
            "DATAFILE_WEBHOOK_LISTEN": f"127.0.0.1:{webhook}",
            "DATAFILE_ADMIN_LISTEN": f"127.0.0.1:{admin}",
        }
        log, there = os.pipe()
        fcntl.fcntl(there, fcntl.F_SETPIPE_SZ, 4096)
        command = (sys.executable, "-m", "datafile_sidecar", "run")
        process = await asyncio.create_subprocess_exec(*command, env=environment, stderr=there)
        os.close(there)
        try:
            await up(f"http://127.0.0.1:{admin}/readyz")
            yield Unread(process, log, f"http://127.0.0.1:{admin}", f"http://127.0.0.1:{webhook}/webhooks/optimizely")
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            os.close(log)


async def up(url: str) -> None:
    async with ClientSession() as session, asyncio.timeout(30):
        while True:
            try:
                async with session.get(url) as answer:
                    if answer.status == 200:
                        return
            except ClientError:
                await asyncio.sleep(0.02)


async def test_lines_wait_for_their_reader_and_nothing_else_does(tmp_path: Path) -> None:
    """A full pipe holds up no webhook and no probe; when it is read again, no line is missing, and they stand in their order."""
    async with unread(tmp_path) as sidecar:
        await sidecar.post(200)
        lines = asyncio.create_task(sidecar.read())
        assert await sidecar.stop() == 0
        events = [line["event"] for line in await lines]
        assert events.count("webhook.accepted") == 200
        assert events[-1] == "sidecar.stopped"
        times = [line["time"] for line in lines.result()]
        assert times == sorted(times)


async def test_a_log_that_nobody_ever_reads_keeps_no_pod_from_ending(tmp_path: Path) -> None:
    """Within two seconds of the signal the process has ended, in order, whatever could not be said."""
    async with unread(tmp_path) as sidecar:
        await sidecar.post(200)
        assert await sidecar.stop() == 0
