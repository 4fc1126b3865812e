"""The command line: `--help` of each command, and mistyped arguments."""

import asyncio
import os
import pty
import re
import sys
from pathlib import Path

import pytest

from datafile_sidecar.cli import main as cli
from datafile_sidecar.config.settings import VARIABLES


def help_of(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as left:
        cli.main([*words, "--help"], {})
    assert left.value.code == 0
    return capsys.readouterr().out


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "110")


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help(capsys: pytest.CaptureFixture[str], command: str) -> None:
    """Every command says in a sentence what it does, explains each option, and fits the window."""
    text = help_of(capsys, command)
    assert re.search(r"^[A-Z].*\.$", text, re.MULTILINE)
    assert max(len(line) for line in text.splitlines()) <= 120
    assert "  \n" not in text
    options = re.findall(r"^  (--[a-z-]+)(?: \S+)?(.*)$", text, re.MULTILINE)
    assert [name for name, explained in options if not explained.strip()] == []
    if command != "run":
        assert f"  datafile-sidecar {command}" in text or f"-- datafile-sidecar {command}" in text


def test_overview(capsys: pytest.CaptureFixture[str]) -> None:
    """Who types no more than the name learns every command, and where to begin."""
    text = help_of(capsys)
    assert [command for command in cli.COMMANDS if f"    {command}" not in text] == []
    assert "datafile-sidecar check" in text


def test_environment(capsys: pytest.CaptureFixture[str]) -> None:
    """`run --help` lists every variable, in plain text."""
    text = help_of(capsys, "run")
    assert [variable.name for variable in VARIABLES if f"  {variable.name}\n" not in text] == []
    assert "`" not in text


@pytest.mark.parametrize(
    "words",
    [
        ["chekc"],
        ["check", "--jsn"],
        ["fetch", "--timeout", "soon"],
        ["status", "--wait-for-revision", "newest"],
        ["send-webhook", "--sdk-key", "key", "--revision=-3"],
        ["simulate"],
    ],
)
def test_slip(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    """A mistyped command or option ends with status 2, and one line says what is wrong."""
    with pytest.raises(SystemExit) as left:
        cli.main(words, {})
    assert left.value.code == 2
    assert re.search(r"^datafile-sidecar.*: error: .+", capsys.readouterr().err, re.MULTILINE)


async def test_progress(tmp_path: Path) -> None:
    """On a terminal, who waits sees for whom, in colours where there is something to see; in a pipe there is neither."""
    environment = {"PATH": os.environ["PATH"], "DATAFILE_SDK_KEYS": "KEY1", "DATAFILE_DIR": str(tmp_path)}
    environment |= {"DATAFILE_URL_TEMPLATE": "http://127.0.0.1:9/{sdk_key}.json"}
    nobody = ("status", "--url", "http://127.0.0.1:9", "--wait-for-revision", "1", "--timeout", "1")
    shown = {}
    for name, words in (("status", nobody), ("check", ("check",))):
        command = (sys.executable, "-m", "datafile_sidecar", *words)
        ours, theirs = pty.openpty()
        process = await asyncio.create_subprocess_exec(*command, env=environment, stdout=theirs, stderr=theirs)
        os.close(theirs)
        assert await process.wait() == 1
        shown[name] = await asyncio.to_thread(drained, ours)
        piped = await asyncio.create_subprocess_exec(
            *command, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        output, _ = await piped.communicate()
        assert b"\x1b" not in output
        assert b"\r" not in output
    assert "0 of 1 pod; waiting: 127.0.0.1:9: unreachable" in shown["status"]
    assert "\x1b[31mfailed" in shown["check"]


def drained(terminal: int) -> str:
    """All that was written to a terminal whose other end is closed."""
    text = b""
    try:
        while some := os.read(terminal, 65536):
            text += some
    except OSError:
        pass  # the end of a terminal
    finally:
        os.close(terminal)
    return text.decode()
