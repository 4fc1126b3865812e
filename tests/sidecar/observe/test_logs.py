"""Log lines that hold, whatever stands in them and whatever reads them."""

import io
import json
import logging
import os
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datafile_sidecar.observe import logs

HOSTILE = 'x"\n{"event":"forged"}\r\u2028\x1b[31m\x00\x9b\u202e\ud800é'


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Broken(io.StringIO):
    def write(self, _: str) -> int:
        raise BrokenPipeError


class Unspeakable:
    def __str__(self) -> str:
        raise RuntimeError


class Rude:
    def __repr__(self) -> str:
        return HOSTILE


def lines_of(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line, parse_constant=_refuse) for line in stream.getvalue().splitlines()]


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def test_json() -> None:
    """A line is one JSON object that begins with time, level and event."""
    stream = io.StringIO()
    logs.configure("info", None, stream).warning("webhook.rejected", outcome="unverified", more=[1, {"a": None}])
    [line] = lines_of(stream)
    assert list(line) == ["time", "level", "event", "outcome", "more"]
    assert line["time"].endswith("Z")
    assert (line["level"], line["event"], line["more"]) == ("warning", "webhook.rejected", [1, {"a": None}])


def test_hostile_text() -> None:
    """Text from outside can't forge a line, break one or move a terminal's cursor, in either format."""
    stream = io.StringIO()
    logs.configure("info", "json", stream).info("x", text=HOSTILE, deep=[{HOSTILE: HOSTILE}])
    [line] = stream.getvalue().splitlines()
    assert (json.loads(line)["text"], line.isascii()) == (HOSTILE, True)
    stream = Terminal()
    logs.configure("info", None, stream).info("x", text=HOSTILE, deep=[HOSTILE], bare="\x1b[31m", other="\x07")
    [text] = stream.getvalue().splitlines()
    assert all(bad not in text for bad in ("\x1b[31m\x00", "\x07", "\x9b", "\u202e", "\u2028", "\r"))
    text.encode()


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), {(1, 2): 3}, {float("inf")}, b"\xff", Rude(), Exception("x"), object]
)
def test_any_value(value: object) -> None:
    """A value that JSON can't express is written as text, never as an invalid line."""
    stream = io.StringIO()
    logs.configure("info", "json", stream).info("x", value=value, also=[value])
    [line] = lines_of(stream)
    assert line["event"] == "x"
    assert line["value"]


def test_endless_value() -> None:
    """A value that contains itself ends too."""
    stream, value = io.StringIO(), []  # type: tuple[io.StringIO, list[object]]
    value.append(value)
    logs.configure("info", "json", stream).info("x", value=value)
    assert lines_of(stream)[0]["value"] == "[[...]]"


@given(
    st.dictionaries(st.text(min_size=1), st.text() | st.floats() | st.binary() | st.none() | st.integers(), max_size=4)
)
def test_any_fields(fields: dict[str, Any]) -> None:
    """Any field with any value makes exactly one line of strict JSON."""
    stream = io.StringIO()
    logger = logs.configure("info", "json", stream)
    logger.bind(**{f"f_{name}": value for name, value in fields.items()}).info("x")
    [line] = lines_of(stream)
    assert len(line) == 3 + len(fields)


def test_level() -> None:
    """Lines below the level are left out."""
    stream = io.StringIO()
    logger = logs.configure("warning", "json", stream)
    logger.debug("a")
    logger.info("b")
    logger.warning("c")
    logger.error("d")
    assert [line["event"] for line in lines_of(stream)] == ["c", "d"]


def test_format() -> None:
    """A terminal gets readable lines and everything else JSON, unless told otherwise."""
    for stream, log_format, is_json in (
        (Terminal(), None, False),
        (io.StringIO(), None, True),
        (Terminal(), "json", True),
        (io.StringIO(), "console", False),
    ):
        logs.configure("info", log_format, stream).info("sidecar.started")
        assert stream.getvalue().startswith("{") == is_json
    assert "\x1b" not in stream.getvalue()


def test_broken_stream() -> None:
    """A log whose reader has gone does not stop the sidecar, nor does one that is closed."""
    logger = logs.configure("info", "json", Broken())
    logger.info("x")
    closed = io.StringIO()
    logger = logs.configure("info", "json", closed)
    closed.close()
    logger.info("x")


def test_broken_pipe() -> None:
    """A process whose log's reader has gone goes on for thousands of lines, and exits with its own status."""
    code = (
        "import os, sys; from datafile_sidecar.observe import logs; logger = logs.configure('info', 'json')\n"
        "logger.info('x'); sys.stdin.readline()\n"
        "for _ in range(5000): logger.info('x', text='y' * 100)\n"
        "os._exit(7)"
    )
    reading, writing = os.pipe()
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stderr=writing) as process:
        os.close(writing)
        assert os.read(reading, 1000)
        os.close(reading)
        process.communicate(b"\n", timeout=20)
    assert process.returncode == 7


class TestLibraries:
    def test_forwarded(self) -> None:
        """A library's warning becomes a line of ours; its chatter does not."""
        stream = io.StringIO()
        logs.configure("info", "json", stream)
        library = logging.getLogger("some.library")
        library.info("chatter")
        library.warning("a %s", HOSTILE)
        library.critical("dying")
        library.log(35, "between levels")
        logged = [(line["level"], line["event"], line["logger"], line["message"]) for line in lines_of(stream)]
        assert logged == [
            ("warning", "library.logged", "some.library", f"a {HOSTILE}"),
            ("error", "library.logged", "some.library", "dying"),
            ("warning", "library.logged", "some.library", "between levels"),
        ]

    def test_traceback(self) -> None:
        """A library's traceback stays inside its line."""
        stream = io.StringIO()
        logs.configure("info", "json", stream)
        try:
            raise ValueError(HOSTILE)
        except ValueError:
            logging.getLogger("some.library").exception("failed")
        logging.getLogger("some.library").error("nothing to show", exc_info=True)
        [line, _] = lines_of(stream)
        assert line["exception"].startswith("Traceback")
        assert "ValueError" in line["exception"]

    @pytest.mark.parametrize(
        ("message", "args"), [("bad %d", ("x",)), ("100%", ()), ("%s %s", (1,)), (Rude(), ()), (Unspeakable(), ())]
    )
    def test_wrong_format(self, message: object, args: tuple[object, ...]) -> None:
        """A library's mistake in its own message costs us at most the message."""
        stream = io.StringIO()
        logs.configure("info", "json", stream)
        logging.getLogger("some.library").warning(message, *args)
        assert len(lines_of(stream)) == 1

    def test_debug(self) -> None:
        """Not even at debug level do libraries flood the log."""
        stream = io.StringIO()
        logs.configure("debug", "json", stream).debug("ours")
        logging.getLogger("some.library").info("theirs")
        assert [line["event"] for line in lines_of(stream)] == ["ours"]
