"""SIGKILL at any moment: readers and the next sidecar never see what was half done."""

import asyncio
import contextlib
import os
import random
import re
import signal
import threading
import time
from pathlib import Path

import pytest
from aiohttp import ClientError

from datafile_sidecar.cli.simulator import Simulator
from datafile_sidecar.volume.status_file import Status
from tests import datafiles
from tests.running import RunningSidecar

KEY, SECRET = "KEY1", "test-secret-1"
KILLS = 10
CUT_SHORT = 1
"""So many kills must leave something half-written; where the machine's load delays them, more are tried."""


class Reader(threading.Thread):
    """An app that never stops reading: it keeps every torn, older or missing datafile, and each status that lags behind."""

    def __init__(self, directory: Path, served: dict[int, bytes]) -> None:
        super().__init__(daemon=True)
        self.faults: list[str] = []
        self.newest = 0
        self.reads = 0
        self.stop = False
        self._path = directory / f"{KEY}.json"
        self._served = served

    def run(self) -> None:
        while not self.stop:
            try:
                self._read()
            except OSError as problem:
                self.faults.append(str(problem))
            self.reads += 1
            time.sleep(0.001)

    def _read(self) -> None:
        body = self._path.read_bytes()
        beside = Status.decode(self._path.with_name(f"{KEY}.status.json").read_bytes())
        match = re.search(rb'"revision":"(\d+)"', body)
        revision = int(match[1]) if match else 0
        if body != self._served.get(revision):
            self.faults.append(f"{len(body)} bytes that were never served, perhaps of {revision}")
        if revision < self.newest:
            self.faults.append(f"{revision} after {self.newest}")
        if beside is None or beside.revision < revision:
            self.faults.append(f"the status beside {revision} says {beside}")
        self.newest = max(self.newest, revision)


class Killer:
    """Kills a sidecar at a random moment of a publish: blindly, or as soon as a temporary file shows."""

    def __init__(self, directory: Path, chance: random.Random) -> None:
        self._directory = directory
        self._chance = chance

    def kill(self, pid: int) -> None:
        """Wait for the moment, at most half a second, and kill. Blocks: for a thread."""
        if self._chance.random() < 0.7:
            deadline = time.monotonic() + 0.5
            while not leftovers(self._directory) and time.monotonic() < deadline:
                time.sleep(0.0001)
            time.sleep(self._chance.choice([0, 0, 0.0005, 0.001, 0.002]))
        else:
            time.sleep(self._chance.uniform(0, 0.04))
        os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):  # asyncio was faster
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def leftovers(directory: Path) -> list[str]:
    return [name for name in os.listdir(directory) if name not in {f"{KEY}.json", f"{KEY}.status.json", "sidecar.sock"}]


def datafile(revision: int) -> bytes:
    """About 300 KiB, whose size changes with the revision, so that a torn one shows."""
    return datafiles.realistic(300, revision)[:-1] + b" " * (revision % 50_000) + b"}"


@pytest.mark.parametrize("part", range(3))
async def test_killed_while_publishing(tmp_path: Path, part: int) -> None:
    """Thirty kills, three in the middle of a publication: every read finds a whole datafile, and the next start tidies up."""
    seed = random.randrange(2**32)
    print(f"part {part}, seed {seed}")
    chance = random.Random(seed)
    served = {1: datafile(1)}
    killer, reader = Killer(tmp_path, chance), Reader(tmp_path, served)
    (tmp_path / ".datafile-sidecar.GONE.json.tmp").write_bytes(b"half")
    revision, cut_short = 1, 0
    async with Simulator({KEY: served[1]}, secret=SECRET.encode()) as optimizely:
        while (kills := revision - 1) < KILLS or (cut_short < CUT_SHORT and kills < 3 * KILLS):
            async with sidecar(tmp_path, optimizely) as running:
                if not reader.is_alive():
                    reader.start()
                optimizely.webhook_urls = [running.webhook_url]
                revision += 1
                served[revision] = datafile(revision)
                moment = asyncio.create_task(asyncio.to_thread(killer.kill, running.pid))
                with contextlib.suppress(ClientError):
                    await optimizely.publish(KEY, served[revision])
                await moment
                await running.kill()  # it is dead; asyncio has to notice
                cut_short += bool(leftovers(tmp_path))
        async with sidecar(tmp_path, optimizely) as running:
            await settled(running, revision)
            async with asyncio.timeout(10):
                while leftovers(tmp_path):  # at most its own, for a moment: a status file that is being written
                    await asyncio.sleep(0.01)
    reader.stop = True
    reader.join()
    print(f"{cut_short} of {kills} kills left something half-written; {reader.reads} reads")
    assert reader.faults == []
    assert cut_short >= CUT_SHORT


def sidecar(directory: Path, optimizely: Simulator) -> RunningSidecar:
    return RunningSidecar(
        directory, sdk_keys=KEY, webhook_secrets=SECRET, url_template=optimizely.template, poll_interval_s=0
    )


async def settled(running: RunningSidecar, revision: int) -> None:
    async with asyncio.timeout(30):
        while (await running.status())["keys"][KEY]["revision"] != revision:
            await asyncio.sleep(0.01)
