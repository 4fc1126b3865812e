"""The sidecar as a process: how it starts, what it refuses, what it shows and how it ends."""

import asyncio
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import ClientSession, web

from datafile_sidecar.cli.simulator import Simulator, webhook_body
from datafile_sidecar.core.webhook import signature
from tests import datafiles
from tests.running import RunningSidecar
from tests.stopwatch import Stopwatch

KEY, SECRET = "KEY1", "test-secret-1"
NOWHERE = "http://127.0.0.1:9/datafiles/{sdk_key}.json"


def end(environment: Mapping[str, str]) -> tuple[int, str]:
    """Run a sidecar that is to end by itself; its exit status and all that it printed."""
    plain = {
        "DATAFILE_URL_TEMPLATE": NOWHERE,
        "DATAFILE_WEBHOOK_LISTEN": "127.0.0.1:0",
        "DATAFILE_ADMIN_LISTEN": "127.0.0.1:0",
    }
    done = subprocess.run(
        [sys.executable, "-m", "datafile_sidecar"],
        env=plain | dict(environment),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def sidecar(directory: Path, *, ready: bool = True, **more: object) -> RunningSidecar:
    settings = {"sdk_keys": KEY, "webhook_secrets": SECRET, "url_template": NOWHERE, "poll_interval_s": 0}
    return RunningSidecar(directory, ready=ready, **settings | more)


@asynccontextmanager
async def hanging() -> AsyncIterator[str]:
    """An upstream that takes every connection and never answers; its URL template."""
    writers = []

    async def take(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/{{sdk_key}}.json"
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()


def port_of(url: str) -> int:
    match = re.search(r":(\d+)", url)
    assert match
    return int(match[1])


class TestRefusals:
    def test_all_problems(self, tmp_path: Path) -> None:
        """Every bad setting is reported at once, in a sentence and without a traceback, and what was misspelt is named too."""
        status, printed = end(
            {
                "DATAFILE_SDK_KEY": KEY,
                "DATAFILE_POLL_INTERVAL_S": "soon",
                "DATAFILE_WEBHOOK_LISTEN": "8089",
                "DATAFILE_URL_TEMPLATE": "https://user:hunter2@cdn.test/{sdk_key}.json",
                "DATAFILE_DIR": str(tmp_path / "volume"),
            }
        )
        assert status == 2
        for message in (
            "SDK_KEYS is not set",
            "POLL_INTERVAL_S: ",
            "WEBHOOK_LISTEN: ",
            "URL_TEMPLATE: ",
            "did you mean DATAFILE_SDK_KEYS?",
        ):
            assert message in printed
        assert len(printed.splitlines()) == 6
        assert "Traceback" not in printed
        assert "hunter2" not in printed
        assert not (tmp_path / "volume").exists()

    @pytest.mark.parametrize("key", ["", "undefined", "../../etc", "KEY 1", "KEY1,,KEY2"])
    def test_sdk_key(self, tmp_path: Path, key: str) -> None:
        """An invalid SDK key stops the start, and nothing is written anywhere."""
        status, printed = end({"DATAFILE_SDK_KEYS": key, "DATAFILE_DIR": str(tmp_path / "volume")})
        assert (status, "DATAFILE_SDK_KEYS: " in printed, "Traceback" in printed) == (2, True, False)
        assert list(tmp_path.iterdir()) == []

    def test_no_secret(self, tmp_path: Path) -> None:
        """A secret that is set and empty, in the variable or in the file, stops the start."""
        (tmp_path / "secret").write_bytes(b"\n")
        (tmp_path / "empty").mkdir()
        environment = {"DATAFILE_SDK_KEYS": KEY, "DATAFILE_DIR": str(tmp_path / "volume")}
        for name, value in (
            ("DATAFILE_WEBHOOK_SECRETS", ""),
            ("DATAFILE_WEBHOOK_SECRETS_PATH", str(tmp_path / "secret")),
            ("DATAFILE_WEBHOOK_SECRETS_PATH", str(tmp_path / "empty")),
            ("DATAFILE_WEBHOOK_SECRETS_PATH", str(tmp_path / "missing")),
            ("DATAFILE_ACCESS_TOKENS_PATH", str(tmp_path / "missing")),
        ):
            status, printed = end(environment | {name: value})
            assert (status, f"{name}: " in printed, "Traceback" in printed) == (2, True, False), printed

    async def test_second_sidecar(self, tmp_path: Path) -> None:
        """A second sidecar on the same directory says so and leaves; the first does not notice."""
        async with sidecar(tmp_path / "volume", ready=False) as first:
            status, printed = await asyncio.to_thread(end, first.environment)
            assert status == 1
            assert f"another sidecar publishes into {tmp_path}/volume" in printed
            assert "Traceback" not in printed
            assert await first.stop() == 0

    async def test_port_taken(self, tmp_path: Path) -> None:
        """A port that is taken is reported with the setting that changes it."""
        async with sidecar(tmp_path / "first", ready=False) as first:
            for name, url in (
                ("DATAFILE_WEBHOOK_LISTEN", first.webhook_url),
                ("DATAFILE_ADMIN_LISTEN", first.admin_url),
            ):
                environment = {"DATAFILE_SDK_KEYS": KEY, "DATAFILE_DIR": str(tmp_path / "second")}
                status, printed = await asyncio.to_thread(end, environment | {name: f"127.0.0.1:{port_of(url)}"})
                assert (status, f"choose another address in {name}" in printed, "Traceback" in printed) == (
                    1,
                    True,
                    False,
                )

    @pytest.mark.parametrize("directory", ["file", "x" * 300, "/proc/nowhere"])
    def test_directory(self, tmp_path: Path, directory: str) -> None:
        """A directory that can't be used is reported with the setting that names it."""
        (tmp_path / "file").touch()
        status, printed = end({"DATAFILE_SDK_KEYS": KEY, "DATAFILE_DIR": str(tmp_path / directory)})
        assert (status, "in DATAFILE_DIR" in printed, "Traceback" in printed) == (1, True, False), printed


class TestStart:
    async def test_service_links(self, tmp_path: Path) -> None:
        """In a namespace with a Service of our name the sidecar starts as if there were none."""
        running = sidecar(tmp_path, ready=False)
        running.environment |= {
            "DATAFILE_PORT": "tcp://10.43.0.1:8080",
            "DATAFILE_SERVICE_HOST": "10.43.0.1",
            "DATAFILE_SERVICE_PORT": "8080",
            "DATAFILE_WEBHOOK_PORT_8080_TCP": "tcp://10.43.0.1:8080",
            "DATAFILE_POLL_INTERVALS": "5",
        }
        async with running:
            ignored = [line for line in running.logs if line["event"] == "setting.ignored"]
        assert [(line["name"], line["nearest"]) for line in ignored] == [
            ("DATAFILE_POLL_INTERVALS", "DATAFILE_POLL_INTERVAL_S")
        ]

    async def test_upstream_hangs(self, tmp_path: Path) -> None:
        """While upstream hangs both ports answer: alive, not ready, and why; nothing is published."""
        stopwatch = Stopwatch()
        async with (
            hanging() as template,
            ClientSession() as browser,
            sidecar(tmp_path, ready=False, url_template=template) as running,
        ):
            assert stopwatch.seconds(running.pid) < 4
            async with browser.get(f"{running.admin_url}/livez") as answer:
                assert answer.status == 200
            async with browser.get(f"{running.admin_url}/readyz") as answer:
                assert (answer.status, await answer.text()) == (503, "KEY1: no datafile has been published yet\n")
            async with browser.post(running.webhook_url) as answer:
                assert answer.status == 401
            status = await running.status()
            assert (status["ready"], status["keys"][KEY]["revision"]) == (False, None)
        assert not [path for path in tmp_path.iterdir() if path.suffix == ".json"]

    async def test_upstream_down(self, tmp_path: Path) -> None:
        """With nothing on the volume and no upstream, readiness says what went wrong; a kept file makes the pod ready at once."""
        async with sidecar(tmp_path / "empty", ready=False) as running, ClientSession() as browser:
            await running.logged("fetch.failed")
            async with browser.get(f"{running.admin_url}/readyz") as answer:
                text = await answer.text()
                assert answer.status == 503
                assert text.startswith(f"KEY1: {NOWHERE.format(sdk_key=KEY)}: can't connect")
        (tmp_path / "kept").mkdir()
        (tmp_path / "kept" / "KEY1.json").write_bytes(datafiles.minimal(42))
        async with sidecar(tmp_path / "kept") as running:
            status = await running.status()
            assert (status["ready"], status["keys"][KEY]["revision"]) == (True, 42)

    async def test_no_secret(self, tmp_path: Path) -> None:
        """Without any secret the sidecar polls on, says loudly that webhooks are off, and accepts none."""
        running = sidecar(tmp_path, ready=False)
        del running.environment["DATAFILE_WEBHOOK_SECRETS"]
        async with running, ClientSession() as browser:
            body = webhook_body(43)
            async with browser.post(
                running.webhook_url, data=body, headers={"X-Hub-Signature": signature(body, b"")}
            ) as answer:
                assert answer.status == 503
            assert (await running.logged("webhook.disabled"))["level"] == "warning"

    async def test_white_space(self, tmp_path: Path) -> None:
        """A secret that came with a line feed verifies, and one warning says where the white space stood."""
        (tmp_path / "secrets").mkdir()
        (tmp_path / "secrets" / "webhook").write_bytes(b" file-secret\r\n")
        running = sidecar(
            tmp_path / "volume", ready=False, webhook_secrets=f"{SECRET}\n", webhook_secrets_path=tmp_path / "secrets"
        )
        async with running, ClientSession() as browser:
            for revision, secret in enumerate((SECRET.encode(), b"file-secret"), start=43):
                assert await post(browser, running, secret, revision) == 202
            trimmed = [line["name"] for line in running.logs if line["event"] == "secret.trimmed"]
        assert trimmed == ["DATAFILE_WEBHOOK_SECRETS", "webhook"]


async def post(browser: ClientSession, running: RunningSidecar, secret: bytes, revision: int = 43) -> int:
    body = webhook_body(revision, cdn_url=NOWHERE.format(sdk_key=KEY))
    async with browser.post(
        running.webhook_url, data=body, headers={"X-Hub-Signature": signature(body, secret)}
    ) as answer:
        return answer.status


async def test_rotation(tmp_path: Path) -> None:
    """A mounted secret that is replaced works for the next webhook, and the old one no more, without a restart."""
    for name in ("a", "b"):
        (tmp_path / "secrets" / f"..{name}").mkdir(parents=True)
        (tmp_path / "secrets" / f"..{name}" / "webhook").write_text(f"secret-{name}\n")
    data = tmp_path / "secrets" / "..data"
    data.symlink_to("..a")
    (tmp_path / "secrets" / "webhook").symlink_to("..data/webhook")
    running = sidecar(tmp_path / "volume", ready=False, webhook_secrets_path=tmp_path / "secrets")
    del running.environment["DATAFILE_WEBHOOK_SECRETS"]
    async with running, ClientSession() as browser:
        assert await post(browser, running, b"secret-a", 43) == 202
        assert await post(browser, running, b"secret-b", 44) == 401
        data.with_name("..tmp").symlink_to("..b")
        data.with_name("..tmp").rename(data)
        await asyncio.sleep(1.1)  # a bad signature makes it look at most once a second
        assert await post(browser, running, b"secret-b", 44) == 202
        assert await post(browser, running, b"secret-a", 45) == 401


class TestEnd:
    async def stop(self, running: RunningSidecar) -> float:
        """Send SIGTERM; in how many seconds it ended, with status 0. The machine's load is not counted."""
        stopwatch = Stopwatch(running.pid)
        assert await stopwatch.watch(running.stop()) == 0
        assert "Traceback" not in running.output
        return stopwatch.seconds()

    async def test_idle(self, tmp_path: Path) -> None:
        """An idle sidecar ends at once."""
        (tmp_path / "KEY1.json").write_bytes(datafiles.minimal(42))
        async with Simulator({KEY: datafiles.minimal(42)}, secret=None) as optimizely:
            async with sidecar(tmp_path, url_template=optimizely.template) as running:
                await running.logged("sidecar.started")
                assert await self.stop(running) < 1
                assert running.logs[-1]["event"] == "sidecar.stopped"

    async def test_everything_hangs(self, tmp_path: Path) -> None:
        """It ends within two seconds while upstream, bus and peers hang and connections stay open."""
        async with (
            hanging() as template,
            hanging() as broker,
            sidecar(
                tmp_path,
                ready=False,
                url_template=template,
                bus_url=f"redis://127.0.0.1:{port_of(broker)}",
                peers=f"127.0.0.1:{port_of(template)}",
            ) as running,
            ClientSession() as browser,
        ):
            assert await post(browser, running, SECRET.encode()) == 202
            webhook, admin = port_of(running.webhook_url), port_of(running.admin_url)
            half = b"POST /webhooks/optimizely HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc"
            writers = []
            for port, sent in (
                (webhook, half),
                (webhook, b""),
                (webhook, b"POST"),
                (admin, b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"),
            ):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(sent)
                writers.append(writer)
            await asyncio.sleep(0.1)
            assert await self.stop(running) < 2
            for writer in writers:
                writer.transport.abort()
        assert list(tmp_path.glob(".*tmp")) == []

    async def test_unready_first(self, tmp_path: Path) -> None:
        """From the signal on no new traffic is sent to the pod, while it is still alive."""
        (tmp_path / "KEY1.json").write_bytes(datafiles.minimal(42))
        async with (
            hanging() as template,
            ClientSession() as browser,
            sidecar(tmp_path, url_template=template) as running,
        ):
            os.kill(running.pid, signal.SIGTERM)
            await running.logged("sidecar.stopping")
            async with browser.get(f"{running.admin_url}/readyz") as answer:
                assert (answer.status, await answer.text()) == (503, "sidecar: it is stopping\n")
            async with browser.get(f"{running.admin_url}/livez") as answer:
                assert answer.status == 200

    async def test_second_signal(self, tmp_path: Path) -> None:
        """A second signal ends it at once. On a busy machine the fastest of five counts."""
        took = [math.inf]
        while min(took) >= 0.5 and len(took) <= 5:
            async with hanging() as template, sidecar(tmp_path, ready=False, url_template=template) as running:
                os.kill(running.pid, signal.SIGTERM)
                await running.logged("sidecar.stopping")
                stopwatch = Stopwatch(running.pid)
                assert await stopwatch.watch(running.stop()) == 128 + signal.SIGTERM
                took.append(stopwatch.seconds())
        assert min(took) < 0.5

    async def test_interrupt(self, tmp_path: Path) -> None:
        """Ctrl-C ends it like SIGTERM."""
        async with sidecar(tmp_path, ready=False) as running:
            os.kill(running.pid, signal.SIGINT)
            await running.logged("sidecar.stopped")
            assert (await running.logged("sidecar.stopping"))["signal"] == "SIGINT"

    @pytest.mark.parametrize("after_s", [0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4])
    async def test_early(self, tmp_path: Path, after_s: float) -> None:
        """A signal in the middle of the start ends it at once, without a traceback."""
        environment = {"DATAFILE_SDK_KEYS": KEY, "DATAFILE_DIR": str(tmp_path)}
        ports = {"DATAFILE_WEBHOOK_LISTEN": "127.0.0.1:0", "DATAFILE_ADMIN_LISTEN": "127.0.0.1:0"}
        async with hanging() as template:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "datafile_sidecar"),
                env=environment | ports | {"DATAFILE_URL_TEMPLATE": template},
                stderr=asyncio.subprocess.PIPE,
            )
            try:
                await asyncio.sleep(after_s)
                stopwatch = Stopwatch(process.pid)
                process.send_signal(signal.SIGTERM)
                _, printed = await stopwatch.watch(process.communicate())
                assert stopwatch.seconds() < 3
            finally:
                if process.returncode is None:
                    process.kill()
        assert process.returncode in {0, 128 + signal.SIGTERM, -signal.SIGTERM}
        assert b"Traceback" not in printed


async def test_nothing_secret_is_shown(tmp_path: Path) -> None:
    """After a run full of errors no secret, token or password stands in the log, in `/status`, in `/metrics` or on a probe."""
    for name, content in (("secrets/webhook", "hunter2-file\n"), ("tokens/KEY1", "hunter2-token")):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(content)
    wrong = [
        web.Response(status=403, text="hunter2-token is wrong"),
        web.Response(status=302, headers={"Location": "http://127.0.0.1:9/hunter2.json?token=hunter2"}),
        web.Response(text="<html>"),
        web.Response(headers={"Content-Encoding": "br"}, body=b"x"),
    ]

    async def answer(request: web.Request) -> web.StreamResponse | None:
        return wrong.pop() if wrong else web.Response(status=500, text=request.headers.get("Authorization", ""))

    async with Simulator({}, secret=b"hunter2-env") as optimizely, ClientSession() as browser:
        optimizely.answer = answer
        running = sidecar(
            tmp_path / "volume",
            ready=False,
            log_level="debug",
            webhook_secrets="hunter2-env\n",
            webhook_secrets_path=tmp_path / "secrets",
            access_tokens_path=tmp_path / "tokens",
            url_template=optimizely.auth_template,
        )
        async with running:
            for revision in range(43, 48):
                assert await post(browser, running, b"hunter2-env", revision) == 202
                assert await post(browser, running, b"hunter2-wrong", revision) == 401
            for outcome in ("invalid", "server_error"):
                await running.logged("fetch.failed", outcome=outcome)
            (tmp_path / "secrets" / "webhook").write_text("")
            (tmp_path / "tokens" / "KEY1").write_text("hunter2 token")
            await asyncio.sleep(1.1)  # a bad signature makes it look at most once a second
            assert await post(browser, running, b"hunter2-wrong") == 401
            await running.logged("credentials.failed")
            assert optimizely.requests[0].authorization == "Bearer hunter2-token"
            shown = [
                await text_of(browser, f"{running.admin_url}{path}")
                for path in ("/status", "/metrics", "/readyz", "/livez", "/")
            ]
            assert await running.stop() == 0
            shown.append(running.output)
            outcomes = {line["outcome"] for line in running.logs if line["event"] == "fetch.failed"}
    assert outcomes >= {"invalid", "server_error"}
    assert not [text for text in shown if "hunter2" in text]


async def test_no_proxy_password_is_shown(tmp_path: Path) -> None:
    """The password of a proxy that refuses us stands nowhere either."""
    running = sidecar(tmp_path, ready=False, log_level="debug")
    running.environment["HTTP_PROXY"] = "http://user:hunter2@127.0.0.1:9"
    async with running, ClientSession() as browser:
        await running.logged("fetch.failed")
        shown = [await text_of(browser, f"{running.admin_url}{path}") for path in ("/status", "/readyz")]
        shown.append(running.output)
    assert "through the proxy http://127.0.0.1:9" in shown[0]
    assert not [text for text in shown if "hunter2" in text]


async def text_of(browser: ClientSession, url: str) -> str:
    async with browser.get(url) as answer:
        return await answer.text()


async def test_noise_from_outside(tmp_path: Path) -> None:
    """A thousand half webhooks, port scans and bad signatures are a few lines in the log, and the next real webhook works."""
    sent = [
        b"POST /webhooks/optimizely HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc",
        b"\x16\x03\x01\x02\x00\x01\x00\x01",
        b"GET / HTTP/1.1\r\nX: " + b"a" * 20_000,
        b"POST /webhooks/optimizely HTTP/1.1\r\nHost: x\r\nX-Hub-Signature: sha1=\xe9\r\nContent-Length: 0\r\n\r\n",
        b"POST /\xff HTTP/1.1\r\n\r\n",
    ]
    async with sidecar(tmp_path, ready=False) as running, ClientSession() as browser:
        before, began = len(running.logs), time.monotonic()
        for _ in range(200):
            for noise in sent:
                _, writer = await asyncio.open_connection("127.0.0.1", port_of(running.webhook_url))
                writer.write(noise)
                await writer.drain()
                writer.close()
        assert await post(browser, running, SECRET.encode()) == 202
        noisy = [line for line in running.logs[before:] if line["event"] not in {"fetch.failed", "webhook.accepted"}]
        half_minutes = 1 + int((time.monotonic() - began) / 30)  # what is frequent is logged twice a minute
        assert len(noisy) <= 3 * half_minutes
        for outcome in ("unverified", "broken_off"):
            async with asyncio.timeout(30):
                while await counted(running, outcome) < 200:
                    await asyncio.sleep(0.02)
            assert await counted(running, outcome) == 200


async def counted(running: RunningSidecar, outcome: str) -> float:
    return (await running.metrics())[f'datafile_sidecar_webhooks_total{{outcome="{outcome}"}}']
