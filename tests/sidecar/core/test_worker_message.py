"""The lines of workers: what is understood, and that nothing else is."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datafile_sidecar.core.worker_message import (
    MAX_LINE_BYTES,
    MalformedLineError,
    Refusal,
    WorkerMessage,
    parse,
    parse_lines,
    published_line,
)

WORDS = {"v": 1, "id": "0a1b2c3d", "sdk_key": "KEY1", "pid": 17, "host": "app-1", "revision": 43}
LINE = json.dumps(WORDS).encode()


def test_a_line_is_understood() -> None:
    """A worker's line becomes what it says; fields of a later client are no reason to turn it away."""
    assert parse(LINE) == WorkerMessage(1, "0a1b2c3d", "KEY1", 17, "app-1", 43)
    assert parse(json.dumps(WORDS | {"new": [1]}).encode()).revision == 43
    assert parse(json.dumps(WORDS | {"revision": None}).encode()).revision is None


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b"[" * 400,
        LINE + b" " * MAX_LINE_BYTES,
        *(
            json.dumps(WORDS | change).encode()
            for change in (
                {"v": 2},
                {"v": "1"},
                {"id": "0A1B2C3D"},
                {"id": "0a1b2c3d\n"},
                {"id": "../../etc"},
                {"pid": -1},
                {"pid": 10**30},
                {"pid": 1.5},
                {"host": "h" * 256},
                {"host": "\ud800"},
                {"revision": -1},
                {"revision": 2**63},
                {"revision": "43"},
                {"sha256": "F" * 16},
                {"sha256": "f" * 64},
                {"lock": -1},
                {"lock": 2**62},
                {"refused": "why"},
                {"refused": {"reason": "\ud800"}},
                {"ended": 1},
            )
        ),
        json.dumps({name: value for name, value in WORDS.items() if name != "revision"}).encode(),
    ],
)
def test_a_line_that_is_none_is_refused(line: bytes) -> None:
    """What is no line of ours never stands on the list of workers that somebody relies on."""
    with pytest.raises(MalformedLineError):
        parse(line)


def test_what_a_newer_client_adds_is_understood() -> None:
    """The digest, the lock, what can't be used and why; a worker that uses a key no more."""
    refused = {"reason": "unsupported", "sha256": "f" * 16}
    more = {"sha256": "0" * 16, "lock": 2**62 - 1, "refused": refused, "ended": True}
    message = parse(json.dumps(WORDS | more).encode())
    assert (message.sha256, message.lock, message.ended) == ("0" * 16, 2**62 - 1, True)
    assert message.refused == Refusal("unsupported", "f" * 16)
    assert parse(json.dumps(WORDS | {"refused": {"reason": "unreadable"}}).encode()).refused == Refusal("unreadable")


def test_every_whole_line_counts() -> None:
    """A process may report several SDK keys at once; half a line waits for its rest."""
    older = json.dumps(WORDS | {"revision": 42}).encode()
    assert parse_lines(LINE[:20]) == ([], LINE[:20])
    assert parse_lines(older + b"\n" + LINE + b"\n" + LINE[:20]) == ([parse(older), parse(LINE)], LINE[:20])


def test_what_is_published_is_told_in_a_line() -> None:
    """Other clients than ours can read it: one JSON object a line, null for nothing."""
    told = published_line("KEY1", 43, "0123456789abcdef" * 4)
    assert told.endswith(b"\n")
    assert json.loads(told) == {"v": 1, "sdk_key": "KEY1", "revision": 43, "sha256": "0123456789abcdef"}
    assert json.loads(published_line("KEY1", None, None)) == {
        "v": 1,
        "sdk_key": "KEY1",
        "revision": None,
        "sha256": None,
    }


@given(st.binary(max_size=2 * MAX_LINE_BYTES) | st.binary(max_size=40).map(lambda tail: LINE + b"\n" + tail))
def test_no_bytes_break_it(data: bytes) -> None:
    """Whatever a process writes, the sidecar understands it or hangs up, and keeps at most one line of it."""
    try:
        said, rest = parse_lines(data)
    except MalformedLineError:
        return
    assert len(rest) <= MAX_LINE_BYTES
    assert [json.loads(json.dumps(one.host)) for one in said] == [one.host for one in said]


@pytest.mark.parametrize(
    ("field", "largest", "too_large"),
    [
        ("pid", 2**31 - 1, 2**31),
        ("revision", 2**63 - 1, 2**63),
        ("sdk_key", "k" * 256, "k" * 257),
        ("host", "h" * 255, "h" * 256),
    ],
)
def test_each_field_has_its_limit(field: str, largest: object, too_large: object) -> None:
    """A process with the largest process id, revision or name is listed; a larger value is refused, never cut."""
    assert getattr(parse(json.dumps(WORDS | {field: largest}).encode()), field) == largest
    with pytest.raises(MalformedLineError):
        parse(json.dumps(WORDS | {field: too_large}).encode())
    assert parse(json.dumps(WORDS | {"pid": 0, "revision": 0}).encode()).pid == 0


def test_a_line_has_at_most_512_bytes() -> None:
    """A line of 512 bytes is read, whole or begun; one more byte ends the connection instead of filling the memory."""
    longest = LINE.ljust(512)
    assert parse(longest) == parse(LINE)
    assert parse_lines(longest + b"\n" + longest) == ([parse(LINE)], longest)
    for data in (longest + b" \n", longest + b" "):
        with pytest.raises(MalformedLineError, match="at most 512 bytes"):
            parse_lines(data)


def test_a_worker_is_the_same_in_all_its_lines() -> None:
    """A new revision of a process updates its entry in the list of workers; another process gets its own."""
    assert parse(LINE).process == ("0a1b2c3d", 17, "app-1")
