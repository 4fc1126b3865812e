"""Run real servers for tests: free ports, and programs that end with the test."""

import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.client.helpers import ROOT, Receiver


def need(module: str) -> None:
    """Skip, and say why, where a server is not installed."""
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed: pip install -r requirements/system.in")


def free_port() -> int:
    """Return a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def served(
    arguments: list[str], directory: Path, receiver: Receiver, log: Path, **environment: str
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a Python program with the watcher's settings in its environment; end it with SIGTERM, and kill what is left of it."""
    environment |= {"DATAFILE_SDK_KEYS": "KEY1", "DATAFILE_DIR": str(directory), "RECEIVER_PORT": str(receiver.port)}
    with (
        log.open("wb") as out,
        subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdout=out,
            stderr=out,
            start_new_session=True,
        ) as server,
    ):
        try:
            yield server
            server.send_signal(signal.SIGTERM)
            server.wait(60)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)
