"""The README is followed as a newcomer follows it: its own commands, in one shell, in the order in which they stand."""

import asyncio
import os
import re
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.contract.generated import ROOT

_README = (ROOT / "README.md").read_text()
_STEPS = _README.partition("## Three steps of use\n")[2].partition("\n## ")[0]
_PATIENCE_S = 20


class Shell:
    """One shell into which somebody types. What it and its jobs print is in `printed`."""

    def __init__(self, process: asyncio.subprocess.Process, output: Path) -> None:
        self._process = process
        self._output = output

    @property
    def printed(self) -> str:
        """Everything so far."""
        return self._output.read_text()

    async def type(self, lines: str) -> None:
        """Type these lines; they run one after the other."""
        assert self._process.stdin is not None
        self._process.stdin.write(lines.encode() + b"\n")
        await self._process.stdin.drain()

    async def see(self, text: str) -> None:
        """Wait until this has been printed."""
        try:
            async with asyncio.timeout(_PATIENCE_S):
                while text not in self.printed:
                    await asyncio.sleep(0.02)
        except TimeoutError:
            pytest.fail(f"{text!r} is not in:\n{self.printed}")

    async def leave(self) -> int:
        """End the input and wait for the shell; its exit status."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        async with asyncio.timeout(_PATIENCE_S):
            return await self._process.wait()


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports: list[int] = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _blocks(kind: str, text: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.fixture
async def shell(tmp_path: Path) -> AsyncIterator[Shell]:
    """A shell in the repository, as after `make demo`; whatever it started ends with it."""
    output = tmp_path / "output"
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    with output.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            *("bash", "--noprofile", "--norc"),
            cwd=ROOT,
            env={"PATH": path, "TMPDIR": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=asyncio.subprocess.PIPE,
            stdout=file,
            stderr=file,
        )
    try:
        yield Shell(process, output)
    finally:
        if process.returncode is None:
            assert process.stdin is not None
            process.stdin.write(b"\nkill $(jobs -p); exit\n")
            process.stdin.close()
            await process.wait()


async def test_three_steps(shell: Shell) -> None:
    """Somebody who types what the README says sees the flag flip, and is left with nothing running."""
    sidecar, run, flip, look, end = _blocks("sh", _STEPS)
    (app,) = _blocks("python", _STEPS)
    before, after = re.findall(r"`(checkout is \w+)`", _STEPS)
    simulator, webhook, admin = _free_ports(3)
    elsewhere = sidecar.replace("simulate ", f"simulate --listen 127.0.0.1:{simulator} ")
    await shell.type(f"export DATAFILE_WEBHOOK_LISTEN=127.0.0.1:{webhook} DATAFILE_ADMIN_LISTEN=127.0.0.1:{admin}")
    await shell.type(elsewhere.replace(":8089", f":{webhook}").replace(":8090", f":{simulator}"))
    await shell.see('"datafile.published"')
    await shell.type(f"cat > app.py <<'END'\n{app}END")
    await shell.type(run)
    await shell.see(before)
    await shell.type(flip.replace("flip ", f"flip --url http://127.0.0.1:{simulator} "))
    await shell.see(after)
    await shell.type(look)
    await shell.see("No problems found.")
    await shell.see("1 at 2")
    await shell.type(f"{end}wait\necho jobs left: $(jobs -r | wc -l)")
    await shell.see("jobs left: 0")
    assert await shell.leave() == 0
    for surprise in ("volume.created", "setting.ignored", "webhook.disabled", "Traceback"):
        assert surprise not in shell.printed


def test_two_commands() -> None:
    """The README's other commands are what the build runs, first and in their order: no command in it goes untried."""
    commands, *_ = _blocks("sh", _README)
    assert _blocks("sh", _README) == [commands, *_blocks("sh", _STEPS)]
    typed = [line.partition(" #")[0].strip() for line in commands.splitlines()]
    built = re.findall(r"^make .+$", (ROOT / ".ci/run").read_text(), re.MULTILINE)
    assert built[: len(typed)] == typed


async def test_first_error(shell: Shell) -> None:
    """An app without a sidecar gets the error that the README explains, with the path and what to look at."""
    (app,) = _blocks("python", _STEPS)
    shown = re.findall(r"`(DatafileUnavailableError: [^`]+) …`", _README)
    await shell.type('cd "$(mktemp -d)"')
    await shell.type(f"cat > app.py <<'END'\n{app.replace('timeout=30', 'timeout=0')}END")
    await shell.type("DATAFILE_SDK_KEYS=my-key DATAFILE_DIR=./datafile python app.py; echo status $?")
    await shell.see("status 1")
    assert len(shown) == 1
    assert shown[0] in shell.printed
    assert "datafile/my-key.json" in shell.printed
