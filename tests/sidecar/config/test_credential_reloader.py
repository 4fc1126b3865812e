"""Credentials that change, or whose mount hangs, while everything else goes on."""

import asyncio
import io
import json
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from datafile_sidecar.config import credential_reloader as rotation
from datafile_sidecar.config.credential_reloader import Rotation
from datafile_sidecar.config.credentials import Secrets, Tokens
from datafile_sidecar.observe import logs
from datafile_sidecar.observe.telemetry import Telemetry


class Mount(Secrets):
    """Secrets in a directory that hangs, where it is told to."""

    def __init__(self, path: Path) -> None:
        self.answers = threading.Event()
        self.answers.set()
        self.reads = 0
        self.now = 0.0
        super().__init__(path, (), lambda: self.now)

    def reread(self) -> bool:
        self.reads += 1
        assert self.answers.wait(20)
        return super().reread()


class House:
    """Rotation on real files."""

    def __init__(self, directory: Path) -> None:
        self.secrets_path, self.tokens_path = directory / "secrets", directory / "tokens"
        for path in (self.secrets_path, self.tokens_path):
            path.mkdir()
        self.write_secret("old")
        self.secrets = Mount(self.secrets_path)
        self.tokens = Tokens(self.tokens_path, ["KEY1"])
        self.stream = io.StringIO()
        self.told = 0
        telemetry = Telemetry(logs.configure("info", "json", self.stream), time.monotonic)
        self.rotation = Rotation(self.secrets, self.tokens, self._tell, telemetry)

    def _tell(self) -> None:
        self.told += 1

    def write_secret(self, secret: str) -> None:
        (self.secrets_path / "a").write_text(secret)

    @property
    def events(self) -> list[str]:
        return [json.loads(line)["event"] for line in self.stream.getvalue().splitlines()]


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    house = House(tmp_path)
    yield house
    house.secrets.answers.set()


async def test_a_new_secret_is_found_after_a_bad_signature(house: House) -> None:
    """At the first webhook that it signs, and by one look a second, however many bad signatures come."""
    house.write_secret("new")
    assert not await house.rotation.look_for_secrets()
    house.secrets.now = 1.0
    assert await asyncio.gather(*(house.rotation.look_for_secrets() for _ in range(50))) == [True] * 50
    assert (house.secrets.active, house.secrets.reads, house.events) == ((b"new",), 2, ["credentials.changed"])
    assert not await house.rotation.look_for_secrets()


async def test_what_cannot_be_read_is_said_once(house: House) -> None:
    """The old ones stay, and a flood of bad signatures makes no flood of lines."""
    house.write_secret(" ")
    for now in (1.0, 2.0, 3.0):
        house.secrets.now = now
        assert not await house.rotation.look_for_secrets()
    assert (house.secrets.active, house.events) == ((b"old",), ["credentials.failed"])
    house.write_secret("new")
    house.secrets.now = 4.0
    assert await house.rotation.look_for_secrets()


async def test_a_mount_that_hangs_holds_up_nothing_else(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop turns, tokens are still renewed, one thread is lost and no more; when it answers, all is as it was."""
    monkeypatch.setattr(rotation, "EVERY_S", 0.05)
    house.write_secret("new")
    house.secrets.now = 1.0
    house.secrets.answers.clear()
    watch = asyncio.create_task(house.rotation.run())
    await until(lambda: "credentials.failed" in house.events)
    assert "does the mount hang?" in house.stream.getvalue()
    (house.tokens_path / "KEY1").write_text("token")
    await until(lambda: house.told)
    began = time.monotonic()
    assert not any(await asyncio.gather(*(house.rotation.look_for_secrets() for _ in range(50))))
    assert time.monotonic() - began < 1.5
    assert (house.secrets.reads, house.secrets.active) == (2, (b"old",))
    house.secrets.answers.set()
    await until(lambda: house.secrets.active == (b"new",))
    await until(lambda: house.events.count("credentials.changed") == 2)
    watch.cancel()
    await asyncio.gather(watch, return_exceptions=True)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)
