"""Secrets, tokens and passwords stand in nothing that anybody can see, whatever goes wrong and whoever repeats them."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, web

from datafile_sidecar.cli.simulator import Simulator, webhook_body
from datafile_sidecar.core.webhook import signature
from tests.datafiles import minimal
from tests.running import RunningSidecar
from tests.stopwatch import Stopwatch

KEY = "KEY1"
SECRET = b"hunter2-secret"


@asynccontextmanager
async def rude_broker() -> AsyncIterator[int]:
    """A broker that repeats in its error what it was sent, the password too; its port."""
    writers = []

    async def repeat(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        while sent := await reader.read(4096):
            received = [word for word in sent.decode().split("\r\n") if word and word[0] not in "*$"]
            writer.write(f"-WRONGPASS you said {' '.join(received)}\r\n".encode())

    server = await asyncio.start_server(repeat, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()


async def printed(environment: Mapping[str, str], *arguments: str) -> str:
    """All that a command prints."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "datafile_sidecar", *arguments),
        env={**environment, "PATH": os.environ["PATH"]},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(50):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    return output.decode()


async def answer(request: web.Request) -> web.StreamResponse | None:
    """Upstream repeats in its errors what it was sent, the token too."""
    said = request.headers.get("Authorization", "nothing")
    return web.Response(status=403, reason="Forbidden", text=said, headers={"X-Said": said, "Location": f"/{said}"})


async def test_no_output_shows_a_secret(tmp_path: Path) -> None:
    """After a run full of errors, neither log nor ports nor any command's output holds a secret, a token or a password."""
    for name, content in (
        ("secrets/webhook", "hunter2-file\n"),
        ("secrets/empty", ""),
        (f"tokens/{KEY}", "hunter2-token"),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    async with Simulator({}, secret=None) as optimizely, rude_broker() as port, ClientSession() as browser:
        optimizely.answer = answer
        running = RunningSidecar(
            tmp_path / "volume",
            ready=False,
            sdk_keys=KEY,
            log_level="debug",
            webhook_secrets=f" {SECRET.decode()}\n",
            webhook_secrets_path=tmp_path / "secrets",
            access_tokens_path=tmp_path / "tokens",
            url_template=optimizely.auth_template,
            bus_url=f"redis://sidecars:hunter2%2Fpassword@127.0.0.1:{port}/0",
            peers="127.0.0.1:9",
        )
        async with running:
            for secret in (SECRET, b"hunter2-wrong"):
                body = webhook_body(43, cdn_url=f"/datafiles/{KEY}.json")
                await browser.post(running.webhook_url, data=body, headers={"X-Hub-Signature": signature(body, secret)})
            for event in ("fetch.failed", "bus.disconnected", "webhook.relayed", "webhook.rejected"):
                await running.logged(event)
            shown = {
                path: await (await browser.get(f"{running.admin_url}{path}")).text()
                for path in ("/", "/status", "/metrics", "/readyz", "/livez")
            }
            status = ("status", "--url", running.admin_url)
            commands = [
                ("check",),
                ("check", "--json"),
                status,
                (*status, "--json"),
                ("fetch", "--timeout", "1"),
                ("run",),
            ]
            outputs = await asyncio.gather(*(printed(running.environment, *command) for command in commands))
            shown |= dict(zip(map(" ".join, commands), outputs, strict=True))
            broken = {
                "DATAFILE_BUS_URL": "redis://hunter2@[",
                "DATAFILE_URL_TEMPLATE": "http://hunter2:hunter2@x/{sdk_key}",
            }
            shown["broken settings"] = await printed(running.environment | broken, "check", "--json")
            await running.stop()
            shown["log"] = running.output
    assert "you said" in shown["/status"]
    assert "you said" in shown["check --json"]
    assert "answered 403" in shown["check"]
    assert "DATAFILE_BUS_URL" in shown["broken settings"]
    assert [name for name, text in shown.items() if "hunter2" in text] == []


def state_of(thread: Path) -> str:
    """The letter that the kernel shows for a thread of a process: T is stopped."""
    return (thread / "stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.system
async def test_secrets_on_a_mount_that_hangs(tmp_path: Path) -> None:
    """A file system of secrets that stops answering stops neither probes nor webhooks, nor the end; the log names it.

    `bindfs` serves the secrets and is stopped: every look at them hangs in the kernel.
    """
    bindfs = shutil.which("bindfs")
    if bindfs is None:
        pytest.skip("needs bindfs: make system-packages")
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "secret").write_bytes(SECRET)
    mount = tmp_path / "mounted"
    mount.mkdir()
    server = await asyncio.create_subprocess_exec(bindfs, "-f", tmp_path / "kept", mount)
    try:
        async with asyncio.timeout(5):
            while not (mount / "secret").exists():
                await asyncio.sleep(0.05)
        async with Simulator({KEY: minimal(1)}, secret=SECRET) as optimizely:
            settings: dict[str, Any] = {"webhook_secrets_path": mount, "url_template": optimizely.template}
            async with RunningSidecar(tmp_path / "volume", sdk_keys=KEY, **settings) as sidecar:
                optimizely.webhook_urls = [sidecar.webhook_url]
                await asyncio.sleep(1)
                server.send_signal(signal.SIGSTOP)
                # A thread that is not stopped yet could still take a request, and nothing can end a process that waits for that.
                async with asyncio.timeout(10):
                    while any(state_of(thread) != "T" for thread in Path(f"/proc/{server.pid}/task").iterdir()):
                        await asyncio.sleep(0.01)
                async with ClientSession() as session, asyncio.timeout(30):
                    headers = {"X-Hub-Signature": signature(b"{}", b"wrong")}
                    async with session.post(sidecar.webhook_url, data=b"{}", headers=headers) as answer:
                        assert answer.status == 401
                    for revision in range(2, 15):
                        assert await optimizely.publish(KEY, minimal(revision)) == 202
                        async with session.get(f"{sidecar.admin_url}/livez") as answer:
                            assert answer.status == 200
                        await asyncio.sleep(1)
                assert (await sidecar.status())["keys"][KEY]["revision"] == 14
                line = await sidecar.logged("credentials.failed", kind="webhook secrets")
                assert "does the mount hang?" in line["reason"]
                stopwatch = Stopwatch(sidecar.pid)
                assert await stopwatch.watch(sidecar.stop()) == 0
                assert stopwatch.seconds() < 2
    finally:
        server.send_signal(signal.SIGCONT)
        subprocess.run(["umount", "-l", mount], check=False, timeout=10)
        server.kill()
        await server.wait()
