"""Thousands of revisions under random faults, with real processes, and every promise watched: `make soak`.

The seed is printed; the same seed does the same in the same order. A broken promise ends it with exit status 1 and is named. At
the end it prints what was done, how long flips took, and how memory and descriptors of all processes have moved.
"""

import argparse
import asyncio
import hashlib
import json
import os
import random
import secrets
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import ClientError, ClientSession, TCPConnector, web

from datafile_client.testing import make_datafile
from datafile_sidecar.cli.simulator import Simulator, webhook_body
from datafile_sidecar.core.webhook import signature
from tests.running import RunningApp, RunningSidecar

KEY, SECRET, WORKERS = "KEY1", "test-secret-1", 2
ROUND = 12
"""Revisions between two looks at whether all have arrived."""
MOST_GROWTH_MIB = 12.0
TEXT = {f"text-{number}": "A sentence that a product manager may change at any time." for number in range(4)}
FLAGS = {f"flag-{number:02}": {"on": True, "variables": TEXT} for number in range(20)}


class BrokenPromiseError(Exception):
    """What must never happen has happened."""


def datafile(revision: int) -> bytes:
    """The flag that the app asks for is on at every even revision."""
    flag = {"on": revision % 2 == 0, "variables": {"revision": str(revision)}}
    return make_datafile({**FLAGS, "checkout": flag}, revision=revision, sdk_key=KEY)


@dataclass
class Usage:
    """Resident memory in MiB and open files of one process, at two moments."""

    pid: int
    before: tuple[float, int]
    after: tuple[float, int] = (0.0, 0)

    def __str__(self) -> str:
        (mib, files), (mib_now, files_now) = self.before, self.after
        return f"{mib:.1f} → {mib_now:.1f} MiB, {files} → {files_now} files"


def usage(pid: int) -> tuple[float, int]:
    """Resident memory in MiB, and open files."""
    resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return resident / 2**20, len(os.listdir(f"/proc/{pid}/fd"))


@dataclass
class Reader:
    """Somebody who knows nothing but the datafile's name, and reads it all the time."""

    path: Path
    known: dict[str, int] = field(default_factory=dict)
    reads: int = 0
    newest: int = 0

    async def run(self) -> None:
        """Read until cancelled. Raises BrokenPromiseError."""
        while True:
            digest = hashlib.sha256(self.path.read_bytes()).hexdigest()
            if (revision := self.known.get(digest)) is None:
                raise BrokenPromiseError(f"{self.path.name} holds what was never served")
            if revision < self.newest:
                raise BrokenPromiseError(f"the file went back from revision {self.newest} to {revision}")
            self.newest, self.reads = revision, self.reads + 1
            await asyncio.sleep(0.002)


class Soak:
    """The processes, the faults, and what has been seen of them."""

    def __init__(self, directory: Path, optimizely: Simulator, session: ClientSession, seed: int) -> None:
        self.random = random.Random(seed)
        self.done = Counter[str]()
        self.took: list[float] = []
        self.revision = 1
        self.reader = Reader(directory / f"{KEY}.json", {hashlib.sha256(datafile(1)).hexdigest(): 1})
        self._directory = directory
        self._optimizely = optimizely
        self._session = session
        self._wrong: Callable[[], web.Response] | None = None
        optimizely.answer = self._answer

    async def run(self, seconds: float) -> list[Usage]:
        """Rounds of faults until the time is over; the use of memory and files by the sidecar and the workers."""
        began = time.monotonic()
        await self.start_sidecar()
        await self.start_app()
        watch = asyncio.create_task(self.reader.run())
        try:
            used: list[Usage] = []
            while (passed := time.monotonic() - began) < seconds:
                if not used and passed > seconds / 2:
                    used = [Usage(pid, usage(pid)) for pid in self._pids]
                # Processes whose memory is compared must live on; those of the first half may be killed.
                await self._round(may_kill=not used)
                if watch.done():
                    watch.result()
            for one in used:
                one.after = usage(one.pid)
            return used
        finally:
            watch.cancel()
            await self._app.__aexit__(None, None, None)
            await self._sidecar.__aexit__(None, None, None)

    async def start_sidecar(self) -> None:
        """A new process on the same volume."""
        self._sidecar = RunningSidecar(
            self._directory,
            sdk_keys=KEY,
            webhook_secrets=SECRET,
            url_template=self._optimizely.template,
            poll_interval_s=1,
        )
        await self._sidecar.__aenter__()
        self._optimizely.webhook_urls = [self._sidecar.webhook_url]

    async def start_app(self) -> None:
        """A new app with its workers."""
        self._app = RunningApp(f"--workers={WORKERS}", DATAFILE_DIR=str(self._directory), DATAFILE_SDK_KEYS=KEY)
        await self._app.__aenter__()
        await self._app.decided_by(self.revision, WORKERS)

    @property
    def _pids(self) -> list[int]:
        return [self._sidecar.pid, *sorted({made.worker for made in self._app.decisions})]

    async def _round(self, *, may_kill: bool) -> None:
        """Some revisions under one fault, then one without, by which everybody has to decide in time."""
        faults = [self._errors, self._garbage, self._stale, self._lost, self._strangers, self._pause]
        fault = self.random.choice(faults + [self._kill, self._restart, self._restart_app] * may_kill)
        self.done[fault.__name__.strip("_").replace("_", " ")] += 1
        await fault()
        self._wrong = None
        self._optimizely.cdn_lag_s = self._optimizely.origin_lag_s = 0
        await self.settle()

    async def settle(self) -> None:
        """One more flip, by which every worker must decide rightly."""
        began = time.monotonic()
        await self.flip()
        made = await self._app.decided_by(self.revision, WORKERS)
        self.took.append(time.monotonic() - began)
        if any(one.on != (one.revision % 2 == 0) for one in made):
            raise BrokenPromiseError(f"a worker decided wrongly: {made}")
        self._look_back()

    def _look_back(self) -> None:
        for worker in {made.worker for made in self._app.decisions}:
            revisions = [made.revision for made in self._app.decisions if made.worker == worker]
            if revisions != sorted(revisions):
                raise BrokenPromiseError(f"worker {worker} went back: {revisions[-5:]}")
        self._app.decisions = [made for made in self._app.decisions if made.revision == self.revision]
        if errors := [line for line in self._sidecar.logs if line["level"] == "error"]:
            raise BrokenPromiseError(f"the sidecar complains: {errors[0]}")

    async def flip(self, *, announced: bool = True) -> None:
        """The next revision. A webhook that a dead sidecar misses is lost, as it would be."""
        self.revision += 1
        body = datafile(self.revision)
        self.reader.known[hashlib.sha256(body).hexdigest()] = self.revision
        self._optimizely.put(KEY, body)
        if announced:
            with suppress(ClientError, TimeoutError):
                await self._optimizely.announce(KEY, self.revision)

    async def _some(self, step: Callable[[], Awaitable[None]]) -> None:
        for _ in range(self.random.randint(1, ROUND)):
            await step()
            await asyncio.sleep(self.random.choice((0, 0, 0.01, 0.1)))

    async def _answer(self, _: web.Request) -> web.Response | None:
        return self._wrong() if self._wrong and self.random.random() < 0.7 else None

    # The faults

    async def _errors(self) -> None:
        status = self.random.choice((500, 502, 503, 404))
        self._wrong = lambda: web.Response(status=status, headers={"Retry-After": "1"})
        await self._some(self.flip)

    async def _garbage(self) -> None:
        newer = json.loads(datafile(self.revision + 1000)) | {"version": "5"}
        body = self.random.choice((b"", b"<html>", b"{}", datafile(1)[:-9], json.dumps(newer).encode()))
        self._wrong = lambda: web.Response(body=body)
        await self._some(self.flip)

    async def _stale(self) -> None:
        self._optimizely.cdn_lag_s, self._optimizely.origin_lag_s = self.random.random(), self.random.random()
        await self._some(self.flip)
        old = datafile(max(1, self.revision - 3))
        self._wrong = lambda: web.Response(body=old)
        await self._some(self.flip)

    async def _lost(self) -> None:
        await self._some(lambda: self.flip(announced=self.random.random() < 0.5))

    async def _strangers(self) -> None:
        async def post() -> None:
            revision = self.random.randint(1, self.revision)
            body = webhook_body(revision, cdn_url=f"{self._optimizely.url}/datafiles/{KEY}.json")
            secret = self.random.choice((SECRET, "wrong")).encode()
            headers = {"X-Hub-Signature": signature(body, secret)}
            async with self._session.post(self._sidecar.webhook_url, data=body, headers=headers) as answer:
                if answer.status not in {200, 202, 401}:
                    raise BrokenPromiseError(f"a webhook was answered {answer.status}")
            await self.flip()

        await self._some(post)

    async def _pause(self) -> None:
        os.kill(self._sidecar.pid, signal.SIGSTOP)
        await asyncio.sleep(self.random.random())
        os.kill(self._sidecar.pid, signal.SIGCONT)
        await self._some(self.flip)

    async def _kill(self) -> None:
        flipping = asyncio.create_task(self._some(self.flip))
        await asyncio.sleep(self.random.random() / 5)
        await self._sidecar.kill()
        await flipping
        await self._sidecar.__aexit__(None, None, None)
        await self.start_sidecar()

    async def _restart(self) -> None:
        flipping = asyncio.create_task(self._some(self.flip))
        if (status := await self._sidecar.stop()) != 0:
            raise BrokenPromiseError(f"the sidecar ended with status {status}")
        await flipping
        await self._sidecar.__aexit__(None, None, None)
        await self.start_sidecar()

    async def _restart_app(self) -> None:
        await self._some(self.flip)
        await self.settle()
        if (status := await self._app.stop()) != 0:
            raise BrokenPromiseError(f"the app ended with status {status}")
        await self._app.__aexit__(None, None, None)
        await self.start_app()


async def soak(seconds: float, seed: int) -> None:
    """Run, and print the figures. Raises BrokenPromiseError."""
    async with (
        Simulator({KEY: datafile(1)}, secret=SECRET.encode()) as optimizely,
        ClientSession(connector=TCPConnector(force_close=True)) as session,
    ):
        with tempfile.TemporaryDirectory() as directory:
            run = Soak(Path(directory), optimizely, session, seed)
            used = await run.run(seconds)
    print(
        f"{run.revision} revisions, {run.reader.reads} reads of the file, {len(optimizely.requests)} requests to upstream"
    )
    print("rounds: " + ", ".join(f"{count} × {name}" for name, count in sorted(run.done.items())))
    print(
        f"a flip after a fault: p50 {1000 * statistics.median(run.took):.0f} ms, slowest {1000 * max(run.took):.0f} ms"
    )
    for name, one in zip(("sidecar", *["worker"] * WORKERS), used, strict=True):
        print(f"{name}: {one}")
        (mib, files), (mib_now, files_now) = one.before, one.after
        if mib_now - mib > MOST_GROWTH_MIB or files_now - files > 10:
            raise BrokenPromiseError(f"the {name} grows: {one}")


def main() -> int:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**31))
    options = parser.parse_args()
    print(f"seed {options.seed}, {options.seconds:g} s", flush=True)
    try:
        asyncio.run(soak(options.seconds, options.seed))
    except (BrokenPromiseError, RuntimeError, TimeoutError) as broken:
        print(f"broken: {broken}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
