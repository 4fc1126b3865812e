"""Real processes, for tests, demo and benchmarks: the sidecar, and an app whose workers decide."""

import asyncio
import json
import os
import signal
import sys
import tempfile
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from aiohttp import ClientError, ClientSession

_ROOT = Path(__file__).parents[1]
_PATIENCE_S = 30
"""No promise, only a bound for what hangs: long enough for a machine that has much else to do."""


class RunningSidecar:
    """`datafile-sidecar run`: an async context manager that ends the process by its id, whatever happens.

    Keywords are settings: `poll_interval_s=1` is DATAFILE_POLL_INTERVAL_S. Nothing else comes from the caller's environment.
    With `ready=False` it is entered as soon as both ports are open.
    """

    command: tuple[str, ...] = (sys.executable, "-m", "datafile_sidecar", "run")

    def __init__(self, directory: Path, *, ready: bool = True, **settings: object) -> None:
        ports = {"webhook_listen": "127.0.0.1:0", "admin_listen": "127.0.0.1:0", "log_format": "json"}
        named = {"dir": directory, **ports, **settings}
        self.environment = {f"DATAFILE_{name.upper()}": str(value) for name, value in named.items()}
        self.environment["PATH"] = os.environ.get("PATH", "")
        self.environment["MALLOC_MMAP_THRESHOLD_"] = "65536"  # as in the Dockerfile
        self.directory = directory
        self.webhook_url = self.admin_url = ""
        self._until_ready = ready
        self._stack = AsyncExitStack()

    @property
    def output(self) -> str:
        """All that it has printed."""
        return self._log.read_text()

    @property
    def logs(self) -> list[dict[str, Any]]:
        """Its log so far, parsed."""
        with open(self._log, "rb") as log:
            log.seek(self._parsed_bytes)
            for line in log:
                if not line.endswith(b"\n"):
                    break
                self._parsed_bytes += len(line)
                if line.startswith(b"{"):
                    self._lines.append(json.loads(line))
        return list(self._lines)

    @property
    def pid(self) -> int:
        """The id of its process."""
        return self._process.pid

    async def status(self) -> dict[str, Any]:
        """What `/status` says."""
        async with self._session.get(f"{self.admin_url}/status") as answer:
            status: dict[str, Any] = await answer.json()
            return status

    async def metrics(self) -> dict[str, float]:
        """What `/metrics` says, by name and labels as they stand there: `datafile_sidecar_revision{sdk_key="KEY1"}`."""
        async with self._session.get(f"{self.admin_url}/metrics") as answer:
            lines = (await answer.text()).splitlines()
        samples = (line.rpartition(" ") for line in lines if line and line[0] != "#")
        return {name: float(value) for name, _, value in samples}

    async def logged(self, event: str, **fields: object) -> dict[str, Any]:
        """Wait for a line of the log; the first one with this event and these fields."""
        wanted = {"event": event, **fields}
        try:
            async with asyncio.timeout(_PATIENCE_S):
                while True:
                    for line in self.logs:
                        if wanted.items() <= line.items():
                            return line
                    await asyncio.sleep(0.005)
        except TimeoutError:
            raise TimeoutError(f"nothing like {wanted} within {_PATIENCE_S} s in the log:\n{self.output}") from None

    async def stop(self) -> int:
        """Ask it to end (SIGTERM); its exit status. Raises TimeoutError when it does not."""
        return await _end(self._process, signal.SIGTERM)

    async def ended(self) -> int:
        """Wait until it ends by itself, or after a signal of the test's own; its exit status."""
        async with asyncio.timeout(_PATIENCE_S):
            return await self._process.wait()

    async def kill(self) -> int:
        """End it at once (SIGKILL); its exit status."""
        return await _end(self._process, signal.SIGKILL)

    async def __aenter__(self) -> Self:
        self.directory.mkdir(parents=True, exist_ok=True)
        async with AsyncExitStack() as stack:
            self._log = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "log"
            self._lines: list[dict[str, Any]] = []
            self._parsed_bytes = 0
            self._session = await stack.enter_async_context(ClientSession())
            with self._log.open("wb") as log:
                self._process = await asyncio.create_subprocess_exec(
                    *self.command, env=self.environment, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log
                )
            stack.push_async_callback(self.kill)
            await self._started()
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._stack.aclose()

    async def _started(self) -> None:
        try:
            async with asyncio.timeout(_PATIENCE_S):
                while self._process.returncode is None:
                    if await self._is_up():
                        return
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise RuntimeError(f"the sidecar is not up after {_PATIENCE_S} s:\n{self.output}") from None
        raise RuntimeError(f"the sidecar ended with status {self._process.returncode}:\n{self.output}")

    async def _is_up(self) -> bool:
        urls = {
            line["event"]: f"http://{_reachable(line['address'])}:{line['port']}"
            for line in self.logs
            if str(line["event"]).endswith(".listening")
        }
        if not {"webhook.listening", "admin.listening"} <= urls.keys():
            return False
        self.webhook_url = f"{urls['webhook.listening']}/webhooks/optimizely"
        self.admin_url = urls["admin.listening"]
        try:
            async with self._session.get(f"{self.admin_url}/readyz") as answer:
                return answer.status == 200 or not self._until_ready
        except ClientError:
            return False


@dataclass(frozen=True, slots=True)
class Decision:
    """That a worker decided anew: `loaded` is when it began to decide by this revision, `decided` when; Unix seconds."""

    worker: int
    revision: int
    on: bool
    loaded: float
    decided: float


class RunningApp:
    """`demo/app.py`, or another module that prints such lines: an async context manager that ends it, whatever happens."""

    def __init__(self, *arguments: str, module: str = "demo.app", **environment: str) -> None:
        self.decisions: list[Decision] = []
        self._command = (sys.executable, "-m", module, *arguments)
        self._environment = {"PATH": os.environ.get("PATH", ""), **environment}
        self._stack = AsyncExitStack()

    async def decided_by(self, revision: int, workers: int = 2) -> list[Decision]:
        """Wait until so many workers have decided by this revision; their first decisions by it.

        Raises RuntimeError with what the app has printed when it ends instead, or when they take too long.
        """
        try:
            async with asyncio.timeout(_PATIENCE_S):
                while len(first := [made for made in self.decisions if made.revision == revision]) < workers:
                    await self._read()
        except TimeoutError:
            have = [(made.worker, made.revision) for made in self.decisions[-2 * workers :]]
            problem = f"no decision by revision {revision} within {_PATIENCE_S} s; the last (worker, revision): {have}"
            raise RuntimeError(f"{problem}\n{self._log.read_text()}") from None
        return first

    async def stop(self) -> int:
        """Ask it to end (SIGTERM); its exit status. Raises TimeoutError when it does not."""
        return await _end(self._process, signal.SIGTERM)

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            self._log = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "log"
            with self._log.open("wb") as log:
                self._process = await asyncio.create_subprocess_exec(
                    *self._command,
                    cwd=_ROOT,
                    env=self._environment,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=log,
                    start_new_session=True,
                )
            stack.push_async_callback(self._kill)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._stack.aclose()

    async def _kill(self) -> None:
        with suppress(ProcessLookupError):  # of the group that we started: its workers, if the app left any behind
            os.killpg(self._process.pid, signal.SIGKILL)
        await _end(self._process, signal.SIGKILL)

    async def _read(self) -> None:
        assert self._process.stdout
        line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the app ended with status {await self._process.wait()}:\n{self._log.read_text()}")
        self.decisions.append(Decision(**json.loads(line)))


def _reachable(address: str) -> str:
    """Where a socket that is bound there can be connected to."""
    return {"::": "127.0.0.1", "0.0.0.0": "127.0.0.1"}.get(address, f"[{address}]" if ":" in address else address)


async def _end(process: asyncio.subprocess.Process, number: signal.Signals) -> int:
    if process.returncode is None:
        process.send_signal(number)
    try:
        async with asyncio.timeout(_PATIENCE_S):
            return await process.wait()
    except TimeoutError:
        raise TimeoutError(f"process {process.pid} has not ended {_PATIENCE_S} s after {number.name}") from None
