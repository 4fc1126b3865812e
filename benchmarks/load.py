"""`/livez` while large datafiles come in and webhooks are posted, beside `/livez` of the same sidecar at rest.

Run it alone with `python -m benchmarks.load`. Probe and webhooks come from processes of their own, so
that what the benchmark itself does is not measured.
"""

import argparse
import asyncio
import json
import socket
import statistics
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.table import Row
from datafile_sidecar.cli.simulator import Simulator, webhook_body
from datafile_sidecar.core.webhook import signature
from tests.datafiles import realistic
from tests.running import RunningSidecar

KEY, SECRET = "benchmark", "benchmark-secret"
WEBHOOKS_A_SECOND = 200
LARGE_KIB = 4096


async def measure(seconds: float) -> tuple[list[float], list[float], int]:
    """The ms that each probe took at rest and under load, and how many datafiles were published meanwhile."""
    with tempfile.TemporaryDirectory() as directory:
        body = realistic(LARGE_KIB, 1, KEY)
        async with (
            Simulator({KEY: body}, secret=SECRET.encode()) as optimizely,
            RunningSidecar(
                Path(directory),
                sdk_keys=KEY,
                webhook_secrets=SECRET,
                url_template=optimizely.template,
                poll_interval_s=0,
            ) as sidecar,
        ):
            optimizely.webhook_urls = [sidecar.webhook_url]
            rest = await _output("probe", f"{sidecar.admin_url}/livez", seconds / 2)
            flipping = asyncio.create_task(_flip(optimizely))
            try:
                _, loaded = await asyncio.gather(
                    _output("post", sidecar.webhook_url, seconds),
                    _output("probe", f"{sidecar.admin_url}/livez", seconds),
                )
            finally:
                flipping.cancel()
            published = sum(line["event"] == "datafile.published" for line in sidecar.logs)
            return json.loads(rest), json.loads(loaded), published


async def _flip(optimizely: Simulator) -> None:
    """A new large datafile every half second."""
    large = json.loads(realistic(LARGE_KIB, 1, KEY))
    for revision in range(2, 10_000):
        body = json.dumps(large | {"revision": str(revision)}).encode()
        await optimizely.publish(KEY, body)
        await asyncio.sleep(0.5)


async def _output(*arguments: object) -> bytes:
    command = (sys.executable, "-m", "benchmarks.load", *map(str, arguments))
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with status {process.returncode}")
    return output


def probe(url: str, seconds: float) -> list[float]:
    """Ask again and again for so long, as a kubelet does; the ms that each answer took."""
    where, took, until = urlsplit(url), [], time.monotonic() + seconds
    while time.monotonic() < until:
        began = time.perf_counter()
        with socket.create_connection((where.hostname, where.port), timeout=10) as connection:
            connection.sendall(b"GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % where.path.encode())
            if not connection.recv(100).startswith(b"HTTP/1.1 200"):
                raise RuntimeError(f"{url} does not answer 200")
        took.append((time.perf_counter() - began) * 1000)
        time.sleep(0.01)
    return took


async def post(url: str, seconds: float) -> int:
    """Post signed webhooks that are no news, at an even pace; how many were answered."""
    where, body = urlsplit(url), webhook_body(1, cdn_url=f"https://cdn.optimizely.com/datafiles/{KEY}.json")
    head = f"POST {where.path} HTTP/1.1\r\nHost: x\r\nX-Hub-Signature: {signature(body, SECRET.encode())}\r\n"
    request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    began, tasks = time.monotonic(), []

    async def one() -> bool:
        reader, writer = await asyncio.open_connection(where.hostname, where.port)
        writer.write(request)
        answer = await reader.read()
        writer.close()
        return answer.startswith(b"HTTP/1.1 20")

    for number in range(int(seconds * WEBHOOKS_A_SECOND)):
        await asyncio.sleep(max(0.0, began + number / WEBHOOKS_A_SECOND - time.monotonic()))
        tasks.append(asyncio.create_task(one()))
    answered = sum(await asyncio.gather(*tasks))
    if answered < len(tasks):
        raise RuntimeError(f"{len(tasks) - answered} of {len(tasks)} webhooks were not taken")
    return answered


def p99(samples: list[float]) -> float:
    """The 99th percentile."""
    return statistics.quantiles(samples, n=100)[98]


def rows(*, quick: bool) -> list[Row]:
    """The rows of the table."""
    rest, loaded, published = asyncio.run(measure(3 if quick else 20))
    beside = f"at rest; the load: {published} datafiles of 4 MiB, {WEBHOOKS_A_SECOND} webhooks a second"
    return [Row("load", "/livez under load, p99", p99(loaded), "ms", beside, p99(rest), most=100)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("verb", nargs="?", choices=["probe", "post"])
    parser.add_argument("url", nargs="?")
    parser.add_argument("seconds", nargs="?", type=float, default=20.0)
    options = parser.parse_args()
    if options.verb == "probe":
        print(json.dumps(probe(options.url, options.seconds)))
    elif options.verb == "post":
        print(asyncio.run(post(options.url, options.seconds)))
    else:
        print(*rows(quick=options.seconds < 20), sep="\n")
