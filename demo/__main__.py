"""Flip a flag in a stand-in for Optimizely, and show when the workers of a running app use it. All processes are real."""

import asyncio
import functools
import os
import signal
import statistics
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

from aiohttp import ClientError

from datafile_client.testing import make_datafile
from datafile_sidecar.cli.simulator import Simulator
from demo.app import FLAG
from tests.running import RunningApp, RunningSidecar

KEY, SECRET = "demo", "demo-secret"
FLIPS = 6
WORKERS = 2
LATE_S = 1.0
GREEN, RED, DIM = 32, 31, 2

say = functools.partial(print, flush=True)


class DemoError(Exception):
    """Something did not happen as it should. The message says what."""


FAILURES = (DemoError, RuntimeError, ClientError, TimeoutError)


class Stage:
    """The stand-in for Optimizely (in this process), the sidecar and the app; and the flips of the flag."""

    def __init__(self, optimizely: Simulator, sidecar: RunningSidecar, app: RunningApp) -> None:
        self.optimizely = optimizely
        self._sidecar = sidecar
        self._app = app
        self._revision = 1

    async def begin(self) -> None:
        """Wait until every worker decides, and print the processes."""
        workers = sorted(made.worker for made in await self._app.decided_by(1, WORKERS))
        say(f"Optimizely's stand-in at {self.optimizely.url}, sidecar (process {self._sidecar.pid}),")
        say(
            f"an app with the workers {' and '.join(map(str, workers))}, which decide once a millisecond. The flag is off.\n"
        )
        columns = ["webhook answered", "file published", *(f"worker {worker} decides" for worker in workers)]
        say("Milliseconds after the webhook was sent:")
        say(_coloured(DIM, f"{'flag':>6}" + "".join(f"{column:>24}" for column in columns)))

    async def flip(self) -> list[float]:
        """Flip the flag and print the time of each step.

        Returns:
            For each worker, the milliseconds from the webhook to its first decision by the new revision.
        """
        self._revision += 1
        on = self._revision % 2 == 0
        self.optimizely.put(KEY, datafile(self._revision))
        sent = time.time()
        status = await self.optimizely.announce(KEY, self._revision)
        answered = time.time()
        if status != 202:
            raise DemoError(f"the webhook of revision {self._revision} was answered {status}, not 202")
        made = sorted(await self._app.decided_by(self._revision, WORKERS), key=lambda made: made.worker)
        if [decision.on for decision in made] != [on] * WORKERS:
            raise DemoError(f"a worker made a wrong decision by revision {self._revision}: {made}")
        line = await self._sidecar.logged("datafile.published", revision=self._revision)
        published = datetime.fromisoformat(line["time"]).timestamp()
        decided = [1000 * (decision.decided - sent) for decision in made]
        times = [1000 * (answered - sent), 1000 * (published - sent), *decided]
        flag = _coloured(GREEN if on else RED, f"{'on' if on else 'off':>6}")
        say(flag + "".join(f"{ms:>24.1f}" for ms in times))
        return decided

    async def end(self) -> None:
        """Check that no worker missed a flip or saw one twice, and that all end cleanly."""
        for worker in {made.worker for made in self._app.decisions}:
            seen = [made.revision for made in self._app.decisions if made.worker == worker]
            if seen != list(range(1, self._revision + 1)):
                raise DemoError(f"worker {worker} used the revisions {seen}, in this order")
        for name, process in (("app", self._app), ("sidecar", self._sidecar)):
            if status := await process.stop():
                raise DemoError(f"the {name} ended with status {status}")


def datafile(revision: int) -> bytes:
    """Make a datafile. The flag is off in the first revision and flips with each one."""
    return make_datafile(
        {FLAG: {"on": revision % 2 == 0, "variables": {"revision": str(revision)}}}, revision=revision, sdk_key=KEY
    )


async def play(stage: Stage) -> None:
    """Flip the flag seven times, in some six seconds."""
    await stage.begin()
    decided: list[float] = []
    for _ in range(FLIPS):
        decided += await stage.flip()
        await asyncio.sleep(0.5)
    say(f"\nFrom the webhook to decide(): p50 {statistics.median(decided):.0f} ms, slowest {max(decided):.0f} ms.")
    say(f"\nOnce more, with a CDN that has the new datafile {LATE_S:g} s after the webhook:")
    stage.optimizely.cdn_lag_s = stage.optimizely.origin_lag_s = LATE_S
    late = await stage.flip()
    await stage.end()
    after = max(late) - 1000 * LATE_S
    say(f"\nThe sidecar fetched until it was there. Both workers used it within {after:.0f} ms.")
    say(f"All {WORKERS * (FLIPS + 1)} decisions were right, and every process ended cleanly.")


async def main() -> int:
    """Run the demo. Return 0 only when every decision was right and every process ended cleanly."""
    with tempfile.TemporaryDirectory() as directory:
        volume = Path(directory) / "volume"
        try:
            async with (
                Simulator({KEY: datafile(1)}, secret=SECRET.encode()) as optimizely,
                RunningSidecar(
                    volume, sdk_keys=KEY, webhook_secrets=SECRET, url_template=optimizely.template
                ) as sidecar,
            ):
                optimizely.webhook_urls = [sidecar.webhook_url]
                await _with_app(optimizely, sidecar)
        except FAILURES as error:
            say(f"The demo failed: {str(error) or 'it took longer than a minute'}", file=sys.stderr)
            return 1
    return 0


async def _with_app(optimizely: Simulator, sidecar: RunningSidecar) -> None:
    environment = {"DATAFILE_DIR": str(sidecar.directory), "DATAFILE_SDK_KEYS": KEY}
    try:
        async with asyncio.timeout(60), RunningApp(f"--workers={WORKERS}", **environment) as app:
            await play(Stage(optimizely, sidecar, app))
    except FAILURES:
        say(f"\nThe sidecar's log:\n{sidecar.output}", file=sys.stderr)
        raise


def _coloured(code: int, text: str) -> str:
    return f"\033[{code}m{text}\033[0m" if sys.stdout.isatty() and "NO_COLOR" not in os.environ else text


if __name__ == "__main__":
    signal.signal(
        signal.SIGTERM, signal.default_int_handler
    )  # so that the processes that this one started are ended, too
    try:
        sys.exit(asyncio.run(main()))
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # the reader of the output has gone; every process that was started has ended
        os._exit(1)
