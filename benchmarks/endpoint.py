"""The webhook endpoint beside some lines of Flask under gunicorn, as the vendor's documentation shows them: the time of a request.

And a decision in the app's own process beside one that is asked for over HTTP, as from an agent. Both servers and the clients are
processes of their own. Run it alone with `python -m benchmarks.endpoint`.
"""

import asyncio
import http.client
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.table import Row
from datafile_sidecar.cli.simulator import Simulator, webhook_body
from datafile_sidecar.core.webhook import PATH, signature
from tests.datafiles import minimal
from tests.running import RunningSidecar

KEY, SECRET, CLIENTS = "benchmark", "benchmark-secret", 8


# What the documentation of webhooks suggests, with a comparison in constant time.
FLASK = f"""
import hmac, json
from flask import Flask, abort, request

app = Flask(__name__)

@app.route("{PATH}", methods=["POST"])
def receive():
    right = "sha1=" + hmac.new(b"{SECRET}", msg=request.data, digestmod="sha1").hexdigest()
    if not hmac.compare_digest(right, request.headers.get("X-Hub-Signature", "")):
        abort(401)
    json.loads(request.data)
    return ""
"""


async def agent(port: int) -> None:
    """A server that decides for others, with as little as can be between the request and `decide()`."""
    from aiohttp import web
    from optimizely.optimizely import Optimizely

    from benchmarks.client_datafiles import realistic

    optimizely = Optimizely(realistic(12_000).decode())

    async def decide(request: web.Request) -> web.Response:
        user = optimizely.create_user_context(request.query["user"])
        assert user
        return web.json_response({"enabled": user.decide("flag-0", ["DISABLE_DECISION_EVENT"]).enabled})

    app = web.Application()
    app.router.add_get("/decide", decide)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


@contextmanager
def serving(*command: str) -> Iterator[int]:
    """A server in a process of its own, on a free port; `PORT` in its arguments stands for that."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    arguments = [sys.executable, "-m", *(word.replace("PORT", str(port)) for word in command)]
    process = subprocess.Popen(arguments, stderr=subprocess.DEVNULL)
    try:
        for _ in range(1000):
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.02)
        yield port
    finally:
        process.terminate()
        process.wait(timeout=20)


async def post(port: int, secret: str, seconds: float) -> int:
    """Post webhooks, each on a connection of its own, several at a time; how many were answered as they should be."""
    body = webhook_body(1, cdn_url=f"https://cdn.optimizely.com/datafiles/{KEY}.json")
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Hub-Signature: {signature(body, secret.encode())}\r\n"
    request = f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    expected, until = b"20" if secret == SECRET else b"401", time.monotonic() + seconds

    async def client() -> int:
        answered = 0
        while time.monotonic() < until:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request)
            answer = await reader.read()
            writer.close()
            if not answer[9:].startswith(expected):
                raise RuntimeError(f"answered {answer[:30]!r}")
            answered += 1
        return answered

    return sum(await asyncio.gather(*(client() for _ in range(CLIENTS))))


def request_ms(port: int, secret: str, seconds: float) -> float:
    """How many ms the server takes for one, when it has always more to do."""
    arguments = [sys.executable, "-m", "benchmarks.endpoint", "post", str(port), secret, str(seconds)]
    return (
        1000 * seconds / int(subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=60).stdout)
    )


async def webhooks(seconds: float, rounds: int) -> list[Row]:
    """Good and bad signatures, both sides in turn."""
    took: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as directory:
        async with Simulator({KEY: minimal(1, KEY)}, secret=None) as optimizely:
            settings: dict[str, Any] = {"sdk_keys": KEY, "webhook_secrets": SECRET, "url_template": optimizely.template}
            async with RunningSidecar(Path(directory), poll_interval_s=0, **settings) as sidecar:
                ours = int(sidecar.webhook_url.split(":")[2].partition("/")[0])
                (Path(directory) / "flask_example.py").write_text(FLASK)
                command = ("gunicorn", "--bind", "127.0.0.1:PORT", "--chdir", directory, "flask_example:app")
                with serving(*command) as flask:
                    for _ in range(rounds):
                        for name, port in (("ours", ours), ("flask", flask)):
                            for secret in (SECRET, "wrong"):
                                one = await asyncio.to_thread(request_ms, port, secret, seconds)
                                took.setdefault((name, secret), []).append(one)
    p50 = {which: statistics.median(one) for which, one in took.items()}
    beside = "Flask under gunicorn, one worker"
    return [
        Row("endpoint", f"a webhook with a {what} signature", p50["ours", secret], "ms", beside, p50["flask", secret])
        for what, secret in (("good", SECRET), ("bad", "wrong"))
    ]


def decisions(count: int) -> Row:
    """One process that has the datafile, and one that asks another one."""
    from benchmarks.client_datafiles import realistic
    from datafile_client import OptimizelyWatcher
    from datafile_client.testing import write_datafile

    with tempfile.TemporaryDirectory() as directory, serving("benchmarks.endpoint", "agent", "PORT") as port:
        write_datafile(directory, "KEY1", realistic(12_000))
        connection = http.client.HTTPConnection("127.0.0.1", port)
        here, there = [], []
        with OptimizelyWatcher(sdk_key="KEY1", directory=directory) as watcher:
            for number in range(count):
                began = time.perf_counter()
                user = watcher.optimizely.create_user_context(f"user-{number}")
                assert user
                on = user.decide("flag-0", ["DISABLE_DECISION_EVENT"]).enabled
                here.append(time.perf_counter() - began)
                began = time.perf_counter()
                connection.request("GET", f"/decide?user=user-{number}")
                assert json.loads(connection.getresponse().read())["enabled"] is on
                there.append(time.perf_counter() - began)
        connection.close()
    ours, other = (1000 * statistics.median(one) for one in (here, there))
    return Row(
        "decision", "decide() in the app's process", ours, "ms", "one HTTP hop to an agent that does the same", other
    )


def rows(*, quick: bool) -> list[Row]:
    """The rows of the table."""
    made = asyncio.run(webhooks(0.5 if quick else 2, 1 if quick else 5))
    return [*made, decisions(200 if quick else 3000)]


if __name__ == "__main__":
    if sys.argv[1:2] == ["agent"]:
        asyncio.run(agent(int(sys.argv[2])))
    elif sys.argv[1:2] == ["post"]:
        print(asyncio.run(post(int(sys.argv[2]), sys.argv[3], float(sys.argv[4]))))
    else:
        print(*rows(quick=False), sep="\n")
