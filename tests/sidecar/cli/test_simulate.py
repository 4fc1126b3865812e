"""`datafile-sidecar simulate`: edits of a local datafile, and what is printed."""

import asyncio
import contextlib
import json
import os
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import ClientSession

from datafile_sidecar.cli.simulator.serve_file import serve_file
from tests.sidecar.cli.webhook_receiver import KEY, SECRET, Receiver, announced, datafile


class Session:
    """A running `simulate`, read as a person reads it."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.printed = ""

    async def line(self, pattern: str) -> re.Match[str]:
        async with asyncio.timeout(5):
            while True:
                self.printed += self._capsys.readouterr().out
                if match := re.search(pattern, self.printed):
                    return match
                await asyncio.sleep(0.01)


class TestSimulate:
    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        file = tmp_path / "datafile.json"
        file.write_bytes(datafile(42))
        return file

    @contextlib.asynccontextmanager
    async def running(
        self, file: Path, capsys: pytest.CaptureFixture[str], webhook_url: str | None
    ) -> AsyncIterator[Session]:
        command = asyncio.create_task(
            serve_file(
                datafile=file, sdk_key=KEY, listen="127.0.0.1:0", webhook_url=webhook_url, secret=SECRET, lag_s=0
            )
        )
        session = Session(capsys)
        await session.line("Each edit")
        yield session
        os.kill(os.getpid(), signal.SIGTERM)
        async with asyncio.timeout(5):
            assert await command == 0

    async def test_edit(
        self, file: Path, receiver: Receiver, browser: ClientSession, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Saving the file raises the served revision and tells the sidecar; the file itself stays as it was saved."""
        async with self.running(file, capsys, receiver.url) as session:
            template = (await session.line(r"DATAFILE_URL_TEMPLATE=(\S+)"))[1]
            file.write_bytes(datafile(42, edited=True, sdkKey="another"))
            await session.line("revision 43 is served; webhook answered 202")
            async with browser.get(template.format(sdk_key=KEY), headers={"Accept-Encoding": "identity"}) as answer:
                served = json.loads(await answer.read())
        assert (served["revision"], served["edited"], served["sdkKey"]) == ("43", True, KEY)
        assert json.loads(file.read_bytes())["revision"] == "42"
        assert announced(receiver.got[0][0]) == (KEY,)

    async def test_half_edited(self, file: Path, receiver: Receiver, capsys: pytest.CaptureFixture[str]) -> None:
        """A half-saved, wrong or missing file is reported once, no webhook is posted, and the next good edit goes out."""
        async with self.running(file, capsys, receiver.url) as session:
            file.write_bytes(datafile(42)[:100])
            await session.line("revision 42 is still served: .*not JSON")
            file.write_bytes(datafile(43, featureFlags=[{"id": "1"}]))
            await session.line("revision 42 is still served: .*featureFlags")
            file.unlink()
            await session.line("revision 42 is still served: .*No such file")
            await asyncio.sleep(0.3)
            file.write_bytes(datafile(60))
            await session.line("revision 60 is served")
        assert len(session.printed.splitlines()) == 7
        assert [json.loads(body)["data"]["revision"] for body, _ in receiver.got] == [60]

    async def test_touch(self, file: Path, receiver: Receiver, capsys: pytest.CaptureFixture[str]) -> None:
        """Saving the file without a change is no edit; an editor that replaces it makes one."""
        async with self.running(file, capsys, receiver.url) as session:
            os.utime(file, (1, 1))
            await asyncio.sleep(0.3)
            assert not receiver.got
            other = file.with_name("datafile.json~")
            other.write_bytes(datafile(42, edited=True))
            other.rename(file)
            await session.line("revision 43 is served")

    async def test_sidecar_away(self, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """While no sidecar listens, edits are served all the same, and the failed webhook is explained."""
        async with self.running(file, capsys, "http://127.0.0.1:1/webhooks/optimizely") as session:
            file.write_bytes(datafile(42, edited=True))
            await session.line("revision 43 is served; webhook not delivered: .*is the sidecar running")

    async def test_no_webhook_url(self, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """Without a webhook URL the simulator says that it posts no webhook."""
        async with self.running(file, capsys, None) as session:
            await session.line("no --webhook-url")
            file.write_bytes(datafile(42, edited=True))
            await session.line("revision 43 is served; no webhook posted")

    @pytest.mark.parametrize(
        ("text", "listen", "words"),
        [
            (None, "127.0.0.1:0", "No such file"),
            (b"", "127.0.0.1:0", "not JSON"),
            (b"[]", "127.0.0.1:0", "not a JSON object"),
            (datafile(1), "127.0.0.1", "HOST:PORT"),
            (datafile(1), "127.0.0.1:99999", "HOST:PORT"),
            (datafile(1), "192.0.2.1:0", "192.0.2.1"),
        ],
    )
    async def test_cannot_begin(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: bytes | None, listen: str, words: str
    ) -> None:
        """What stands in the way of a start is said in one line, with exit status 2."""
        file = tmp_path / "datafile.json"
        if text is not None:
            file.write_bytes(text)
        assert await serve_file(datafile=file, sdk_key=KEY, listen=listen, webhook_url=None, secret=None, lag_s=0) == 2
        [line] = capsys.readouterr().out.splitlines()
        assert words in line
