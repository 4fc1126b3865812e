"""Log lines for a reader that is slow, hangs, or is gone, over real pipes."""

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest

from datafile_sidecar.observe import log_writer
from datafile_sidecar.observe.log_writer import MAX_WAITING_BYTES, LogWriter


class Pipe:
    """A pipe of one page, and what comes out of it."""

    def __init__(self) -> None:
        self.reading, writing = os.pipe()
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
        self.stream: TextIO = open(writing, "w")  # noqa: SIM115 - closed in `close`
        self.writer = LogWriter(self.stream)

    def read(self, count: int, pause_s: float = 0.0) -> list[str]:
        """So many lines, with a pause after each piece that comes."""
        output = b""
        while output.count(b"\n") < count and (piece := os.read(self.reading, 65536)):
            output += piece
            time.sleep(pause_s)
        return output.decode().splitlines()

    def close(self) -> None:
        os.close(self.reading)
        log_writer.flush(5)
        self.stream.close()


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.close()


def numbered(count: int, length: int = 100) -> list[str]:
    return [f"{number} ".ljust(length, "x") for number in range(count)]


def test_a_reader_that_keeps_up_gets_each_line_at_once(pipe: Pipe) -> None:
    """Nothing waits and no thread is needed where there is room."""
    for line in numbered(200):
        pipe.writer.msg(line)
        assert pipe.read(1) == [line]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("log-writer")]


def test_a_slow_reader_gets_all_lines_in_their_order(pipe: Pipe) -> None:
    """Long ones and short ones, those that waited and those that came while others waited."""
    sent = [*numbered(300), *numbered(5, 10_000), *numbered(300)]
    for line in sent:
        pipe.writer.msg(line)
    assert pipe.read(len(sent), 0.0005) == sent
    log_writer.flush(5)
    pipe.writer.msg("later")
    assert (pipe.read(1), pipe.writer.take_dropped()) == (["later"], 0)


def test_waiting_lines_have_a_limit(pipe: Pipe) -> None:
    """An unread log takes half a megabyte, then drops lines; they are counted, and the others are whole."""
    sent = numbered(2 * MAX_WAITING_BYTES // 100)
    for line in sent:
        pipe.writer.msg(line)
    dropped = pipe.writer.take_dropped()
    assert len(sent) // 3 < dropped < len(sent) * 2 // 3
    assert pipe.read(len(sent) - dropped) == sent[: len(sent) - dropped]
    assert pipe.writer.take_dropped() == 0


def test_without_threads_lines_are_lost_and_later_ones_are_not(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the process may start no thread while the reader hangs, logging raises nothing, and goes on when it can."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    sent = numbered(100)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        for line in sent:
            pipe.writer.msg(line)
    pipe.writer.msg("later")
    received = pipe.read(1)
    while received[-1] != "later":
        received += pipe.read(1)
    assert received[:-1] == sent[: len(received) - 1]
    assert len(received) < len(sent)


def test_a_reader_that_hangs_does_not_delay_the_exit(pipe: Pipe) -> None:
    """The process waits for its last lines as long as it intends to, and no longer."""
    for line in numbered(200):
        pipe.writer.msg(line)
    begun = time.monotonic()
    log_writer.flush(0.1)
    assert 0.09 < time.monotonic() - begun < 2


def test_a_reader_that_goes_while_lines_wait(pipe: Pipe) -> None:
    """What waited is lost, and that is all."""
    for line in numbered(200):
        pipe.writer.msg(line)
    pipe.close()
    pipe.writer.msg("x")
    pipe.reading, writing = os.pipe()
    os.close(writing)


def test_a_pipe_in_non_blocking_mode(pipe: Pipe) -> None:
    """Another process that shares the pipe may have changed its mode for all: lines still wait."""
    os.set_blocking(pipe.stream.fileno(), False)
    sent = numbered(300)
    for line in sent:
        pipe.writer.msg(line)
    assert pipe.read(len(sent), 0.0005) == sent


def test_threads_write_whole_lines(pipe: Pipe) -> None:
    """Lines of several threads, some of which wait, never mix."""
    sent = [numbered(50, length) for length in (50, 60, 5000)]

    def write(mine: list[str]) -> None:
        for line in mine:
            pipe.writer.msg(line)

    threads = [threading.Thread(target=write, args=(mine,)) for mine in sent]
    for thread in threads:
        thread.start()
    lines = pipe.read(150)
    for mine in sent:
        assert [line for line in lines if len(line) == len(mine[0])] == mine
    for thread in threads:
        thread.join()


def test_a_file_gets_long_lines_at_once(tmp_path: Path) -> None:
    """A log in a file is written directly, and a closed one ignores lines."""
    with open(tmp_path / "log", "w") as file:
        writer = LogWriter(file)
        writer.msg("x" * 100_000)
        assert (tmp_path / "log").read_text() == "x" * 100_000 + "\n"
    writer.msg("y")


def test_a_line_is_out_before_the_process_can_be_killed() -> None:
    """What a process logged just before the kernel kills it, for want of memory, is in the log."""
    code = (
        "import os, signal, sys; from datafile_sidecar.observe.log_writer import LogWriter\n"
        "LogWriter(sys.stderr).msg('last'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    ended = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, timeout=20, check=False)
    assert (ended.returncode, ended.stderr) == (-signal.SIGKILL, b"last\n")
