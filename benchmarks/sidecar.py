"""What a sidecar weighs in a pod, beside a bare aiohttp server that imports structlog and prometheus_client.

Run it alone with `python -m benchmarks.sidecar`. Resident memory, exec to the first answer of `/livez`, processor time at rest, and
memory after 200 publications of 1.2 MiB. Both sides take turns.
"""

import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.table import Row
from datafile_sidecar.cli.simulator import Simulator
from tests.datafiles import realistic
from tests.running import RunningSidecar

KEY, SECRET = "benchmark", "benchmark-secret"
BARE = """
import sys
from aiohttp import web
import prometheus_client, structlog
async def livez(_): return web.Response(text="ok")
app = web.Application()
app.router.add_get("/livez", livez)
web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None)
"""
PUBLISHED_KIB = 1200


@contextmanager
def running(kind: str) -> Iterator[tuple[int, float]]:
    """A bare server or a sidecar, which gets no requests: its process id, and the seconds until `/livez` answered."""
    port = _free_port()
    with tempfile.TemporaryDirectory() as directory:
        command = (
            [sys.executable, "-c", BARE, str(port)]
            if kind == "bare"
            else [sys.executable, "-m", "datafile_sidecar", "run"]
        )
        settings = {
            "SDK_KEYS": KEY,
            "DIR": directory,
            "WEBHOOK_SECRETS": SECRET,
            "URL_TEMPLATE": "http://127.0.0.1:1/{sdk_key}.json",
            "ADMIN_LISTEN": f"127.0.0.1:{port}",
            "WEBHOOK_LISTEN": "127.0.0.1:0",
            "LOG_FORMAT": "json",
        }
        environment = {f"DATAFILE_{name}": value for name, value in settings.items()} | {
            "PATH": os.environ.get("PATH", "")
        }
        began = time.perf_counter()
        process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        try:
            yield process.pid, _until_alive(port, process) - began
        finally:
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


def _until_alive(port: int, process: "subprocess.Popen[bytes]") -> float:
    until = time.perf_counter() + 20
    while time.perf_counter() < until and process.poll() is None:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
                connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
                if connection.recv(100).startswith(b"HTTP/1.1 200"):
                    return time.perf_counter()
        except OSError:
            time.sleep(0.001)
    raise RuntimeError(f"no answer from /livez; the process ended with status {process.poll()} (None: it did not)")


def resident_mib(pid: int) -> float:
    """Resident memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def cpu_s(pid: int) -> float:
    """Processor time so far, with a finer clock than the one of /proc/PID/stat."""
    return sum(int(task.read_text().split()[0]) for task in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


def start_and_memory(rounds: int) -> list[Row]:
    """Both sides in turn, each in a process of its own."""
    started: dict[str, list[float]] = {"bare": [], "ours": []}
    resident: dict[str, list[float]] = {"bare": [], "ours": []}
    for _ in range(rounds):
        for kind in started:
            with running(kind) as (pid, seconds):
                started[kind].append(1000 * seconds)
                time.sleep(1)
                resident[kind].append(resident_mib(pid))
    beside = "bare aiohttp + structlog + prometheus_client"
    memory, start = ({kind: statistics.median(one) for kind, one in samples.items()} for samples in (resident, started))
    return [
        Row("sidecar", "resident memory", memory["ours"], "MiB", beside, memory["bare"], most_ratio=1.2),
        Row("sidecar", "start to /livez", start["ours"], "ms", beside, start["bare"], most_ratio=1.4),
    ]


async def at_rest_and_at_work(seconds: float, publications: int) -> list[Row]:
    """Processor time of a sidecar that has its datafile, and its memory after many large ones."""
    with tempfile.TemporaryDirectory() as directory:
        large = json.loads(realistic(PUBLISHED_KIB, 1, KEY))
        settings = {"sdk_keys": KEY, "webhook_secrets": SECRET}
        async with Simulator({KEY: json.dumps(large).encode()}, secret=SECRET.encode()) as optimizely:
            settings["url_template"] = optimizely.template
            async with RunningSidecar(Path(directory), ready=True, **settings) as sidecar:
                optimizely.webhook_urls = [sidecar.webhook_url]
                await asyncio.sleep(2)
                began, spent = time.perf_counter(), cpu_s(sidecar.pid)
                await asyncio.sleep(seconds)
                idle = 100 * (cpu_s(sidecar.pid) - spent) / (time.perf_counter() - began)
                for revision in range(2, publications + 2):
                    body = json.dumps(large | {"revision": str(revision)}).encode()
                    await optimizely.publish(KEY, body)
                    async with asyncio.timeout(20):
                        while (Path(directory) / f"{KEY}.json").read_bytes() != body:
                            await asyncio.sleep(0.005)
                grown = resident_mib(sidecar.pid)
    with running("ours") as (pid, _):
        time.sleep(1)
        fresh = resident_mib(pid)
    what = f"memory after {publications} publications of 1.2 MiB"
    return [
        Row("sidecar", "processor at rest", idle, "% of a core", "one core", 100.0, most=0.2),
        Row("sidecar", what, grown, "MiB", "a sidecar without a datafile", fresh, most=fresh + 8),
    ]


def rows(*, quick: bool) -> list[Row]:
    """The rows of the table."""
    made = start_and_memory(1 if quick else 7)
    return made + asyncio.run(at_rest_and_at_work(2, 5) if quick else at_rest_and_at_work(30, 200))


if __name__ == "__main__":
    print(*rows(quick="--quick" in sys.argv), sep="\n")
