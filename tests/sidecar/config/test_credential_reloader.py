"""Credentials that change, or whose mount hangs, while everything else goes on."""

import asyncio
import io
import json
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from datafile_sidecar.config import credential_reloader
from datafile_sidecar.config.credential_reloader import CredentialReloader
from datafile_sidecar.config.credentials import Secrets, Tokens
from datafile_sidecar.observe import logs
from datafile_sidecar.observe.telemetry import Telemetry


class Mount(Secrets):
    """Secrets in a directory that hangs while `answers` is not set."""

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


class MountedCredentials:
    """A reloader of real files."""

    def __init__(self, directory: Path) -> None:
        self.secrets_path, self.tokens_path = directory / "secrets", directory / "tokens"
        for path in (self.secrets_path, self.tokens_path):
            path.mkdir()
        self.write_secret("old")
        self.secrets = Mount(self.secrets_path)
        self.tokens = Tokens(self.tokens_path, ["KEY1"])
        self.stream = io.StringIO()
        self.token_changes = 0
        telemetry = Telemetry(logs.configure("info", "json", self.stream), time.monotonic)
        self.reloader = CredentialReloader(self.secrets, self.tokens, self._count_change, telemetry)

    def _count_change(self) -> None:
        self.token_changes += 1

    def write_secret(self, secret: str) -> None:
        (self.secrets_path / "a").write_text(secret)

    @property
    def events(self) -> list[str]:
        return [json.loads(line)["event"] for line in self.stream.getvalue().splitlines()]


@pytest.fixture
async def credentials(tmp_path: Path) -> AsyncIterator[MountedCredentials]:
    credentials = MountedCredentials(tmp_path)
    yield credentials
    credentials.secrets.answers.set()


async def test_a_new_secret_is_found_after_a_bad_signature(credentials: MountedCredentials) -> None:
    """At the first webhook that it signs, and by one look a second, however many bad signatures come."""
    credentials.write_secret("new")
    assert not await credentials.reloader.reload_secrets()
    credentials.secrets.now = 1.0
    assert await asyncio.gather(*(credentials.reloader.reload_secrets() for _ in range(50))) == [True] * 50
    assert (credentials.secrets.active, credentials.secrets.reads, credentials.events) == (
        (b"new",),
        2,
        ["credentials.changed"],
    )
    assert not await credentials.reloader.reload_secrets()


async def test_what_cannot_be_read_is_said_once(credentials: MountedCredentials) -> None:
    """The old ones stay, and a flood of bad signatures makes no flood of lines."""
    credentials.write_secret(" ")
    for now in (1.0, 2.0, 3.0):
        credentials.secrets.now = now
        assert not await credentials.reloader.reload_secrets()
    assert (credentials.secrets.active, credentials.events) == ((b"old",), ["credentials.failed"])
    credentials.write_secret("new")
    credentials.secrets.now = 4.0
    assert await credentials.reloader.reload_secrets()


async def test_a_mount_that_hangs_holds_up_nothing_else(
    credentials: MountedCredentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop turns, tokens are still renewed, one thread is lost and no more; when it answers, all is as it was."""
    monkeypatch.setattr(credential_reloader, "RELOAD_INTERVAL_S", 0.05)
    credentials.write_secret("new")
    credentials.secrets.now = 1.0
    credentials.secrets.answers.clear()
    watch = asyncio.create_task(credentials.reloader.run())
    await until(lambda: "credentials.failed" in credentials.events)
    assert "does the mount hang?" in credentials.stream.getvalue()
    (credentials.tokens_path / "KEY1").write_text("token")
    await until(lambda: credentials.token_changes)
    began = time.monotonic()
    assert not any(await asyncio.gather(*(credentials.reloader.reload_secrets() for _ in range(50))))
    assert time.monotonic() - began < 1.5
    assert (credentials.secrets.reads, credentials.secrets.active) == (2, (b"old",))
    credentials.secrets.answers.set()
    await until(lambda: credentials.secrets.active == (b"new",))
    await until(lambda: credentials.events.count("credentials.changed") == 2)
    watch.cancel()
    await asyncio.gather(watch, return_exceptions=True)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)
