"""Secrets, tokens and passwords stand in nothing that anybody can see, whatever goes wrong and whoever repeats them."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import ClientSession, web

from datafile_sidecar.core.webhook import signature
from datafile_sidecar.simulator import Simulator, webhook_body
from tests.running import RunningSidecar

KEY = "KEY1"
SECRET = b"hunter2-secret"


@asynccontextmanager
async def rude_broker() -> AsyncIterator[int]:
    """A broker that repeats in its error what it was sent, the password too; its port."""
    writers = []

    async def repeat(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        while sent := await reader.read(4096):
            words = [word for word in sent.decode().split("\r\n") if word and word[0] not in "*$"]
            writer.write(f"-WRONGPASS you said {' '.join(words)}\r\n".encode())

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
        async with asyncio.timeout(20):
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
    """After a run full of errors, neither log nor ports nor any command's output holds a secret, a token or a password (59)."""
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
