"""Lines for a reader that is slow, hangs, or is gone, over real pipes."""

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest

from datafile_sidecar.observe import log_writer as lines
from datafile_sidecar.observe.log_writer import MAX_WAITING_BYTES, Lines


class Pipe:
    """A pipe of one page, and what comes out of it."""

    def __init__(self) -> None:
        self.reading, writing = os.pipe()
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
        self.stream: TextIO = open(writing, "w")  # noqa: SIM115 - closed in `close`
        self.lines = Lines(self.stream)

    def read(self, count: int, pause_s: float = 0.0) -> list[str]:
        """So many lines, with a pause after each piece that comes."""
        found = b""
        while found.count(b"\n") < count and (piece := os.read(self.reading, 65536)):
            found += piece
            time.sleep(pause_s)
        return found.decode().splitlines()

    def close(self) -> None:
        os.close(self.reading)
        lines.settle(5)
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
        pipe.lines.msg(line)
        assert pipe.read(1) == [line]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("lines")]


def test_a_slow_reader_gets_all_lines_in_their_order(pipe: Pipe) -> None:
    """Long ones and short ones, those that waited and those that came while others waited."""
    sent = [*numbered(300), *numbered(5, 10_000), *numbered(300)]
    for line in sent:
        pipe.lines.msg(line)
    assert pipe.read(len(sent), 0.0005) == sent
    lines.settle(5)
    pipe.lines.msg("later")
    assert (pipe.read(1), pipe.lines.take_dropped()) == (["later"], 0)


def test_what_waits_has_a_bound(pipe: Pipe) -> None:
    """A log that nobody reads takes half a megabyte, then loses lines; how many is known, and the rest is whole."""
    sent = numbered(2 * MAX_WAITING_BYTES // 100)
    for line in sent:
        pipe.lines.msg(line)
    dropped = pipe.lines.take_dropped()
    assert len(sent) // 3 < dropped < len(sent) * 2 // 3
    assert pipe.read(len(sent) - dropped) == sent[: len(sent) - dropped]
    assert pipe.lines.take_dropped() == 0


def test_who_reads_no_more_holds_up_no_end(pipe: Pipe) -> None:
    """The process waits as long as it means to for its last lines."""
    for line in numbered(200):
        pipe.lines.msg(line)
    begun = time.monotonic()
    lines.settle(0.1)
    assert 0.09 < time.monotonic() - begun < 2


def test_a_reader_that_goes_while_lines_wait(pipe: Pipe) -> None:
    """What waited is lost, and that is all."""
    for line in numbered(200):
        pipe.lines.msg(line)
    pipe.close()
    pipe.lines.msg("x")
    pipe.reading, writing = os.pipe()
    os.close(writing)


def test_a_pipe_that_somebody_made_not_to_block(pipe: Pipe) -> None:
    """Who shares the pipe may have changed its mode for all: lines wait all the same."""
    os.set_blocking(pipe.stream.fileno(), False)
    sent = numbered(300)
    for line in sent:
        pipe.lines.msg(line)
    assert pipe.read(len(sent), 0.0005) == sent


def test_threads_write_whole_lines(pipe: Pipe) -> None:
    """Lines of several threads, some of which wait, never mix."""
    sent = [numbered(50, length) for length in (50, 60, 5000)]

    def write(mine: list[str]) -> None:
        for line in mine:
            pipe.lines.msg(line)

    threads = [threading.Thread(target=write, args=(mine,)) for mine in sent]
    for thread in threads:
        thread.start()
    found = pipe.read(150)
    for mine in sent:
        assert [line for line in found if len(line) == len(mine[0])] == mine
    for thread in threads:
        thread.join()


def test_a_file_gets_long_lines_at_once(tmp_path: Path) -> None:
    """A log on a disk waits for nobody, and one that was closed takes nothing."""
    with open(tmp_path / "log", "w") as file:
        log = Lines(file)
        log.msg("x" * 100_000)
        assert (tmp_path / "log").read_text() == "x" * 100_000 + "\n"
    log.msg("y")
