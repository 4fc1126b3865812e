"""The format of what sidecars share on the bus, and that nothing else is accepted."""

import hashlib
import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datafile_sidecar.core import bus_record, datafile
from datafile_sidecar.core.bus_record import BadRecordError, Check, Head, Record
from datafile_sidecar.core.conditional import Validators
from datafile_sidecar.core.datafile import MAX_BYTES
from tests.datafiles import minimal, realistic

KEY = "KEY1"
NOW = 1_700_000_000.0


def head(body: bytes = minimal(43), **fields: object) -> Head:
    """The true head of this datafile, except for these fields."""
    parsed = datafile.parse(body, KEY)
    true = {"generation": 0, "revision": parsed.revision, "sha256": parsed.sha256, "fetched": NOW}
    return Head(**(true | fields))  # type: ignore[arg-type]


def line(**fields: object) -> bytes:
    """The head of revision 43 as JSON, with these fields whatever they are."""
    return json.dumps(json.loads(head().encode()) | fields).encode()


def test_a_datafile_goes_through_unchanged() -> None:
    """Byte for byte, with its head and its validators."""
    body = realistic(200, 43)
    validators = Validators(url="https://cdn.optimizely.com/datafiles/KEY1.json", etag='"e"', last_modified="today")
    sent = head(body, generation=2, rolled_back_from=("a" * 64,), validators=validators)
    record = decode(value := bus_record.encode(sent, bus_record.deflated(body)))
    assert (record.head, record.datafile.body, record.line) == (sent, body, sent.encode())
    assert len(value) < len(body) / 3


def test_the_json_is_the_one_that_other_versions_know() -> None:
    """Sidecars of all versions share a broker, so no name in it changes with a name in the code."""
    validators = Validators(url="u", etag="e")
    sent = head(rolled_back_from=("a" * 64,), validators=validators, id="1" * 16)
    condition = {"url": "u", "etag": "e", "last_modified": None}
    assert json.loads(sent.encode()) == {
        "v": 1,
        "id": "1" * 16,
        "generation": 0,
        "revision": 43,
        "sha256": sent.sha256,
        "fetched": NOW,
        "left": ["a" * 64],
        "condition": condition,
    }
    check = Check(at=NOW, sha256="a" * 64, by="0a1b2c3d", validators=validators)
    assert json.loads(check.encode()) == {
        "v": 1,
        "at": NOW,
        "sha256": "a" * 64,
        "by": "0a1b2c3d",
        "condition": condition,
    }


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"x"',
        b"\xff\xfe",
        b"x" * 5_000_000,
        b"[" * 8000,
        b'{"revision":"9e9"}',
        line(v=2),
        line(revision="43"),
        line(revision=-1),
        line(revision=10**15),
        line(generation=10**9 + 1),
        line(fetched=1e300),
        line(fetched=None),
        line(sha256="A" * 64),
        line(sha256="a" * 63),
        line(id="x"),
        line(left=["a" * 64] * 5),
        line(condition={"url": "x" * 1025}),
        line().replace(b"1700000000.0", b"NaN"),
    ],
    ids=lambda text: ascii(text[:40]),
)
def test_a_malformed_head_is_refused(text: bytes) -> None:
    """Garbage of every kind gives the same error, which quotes nothing of it."""
    with pytest.raises(BadRecordError) as caught:
        bus_record.decode_head(text)
    assert len(str(caught.value)) < 100


def test_fields_of_a_later_version_are_ignored() -> None:
    """A fleet that is being upgraded goes on sharing."""
    assert bus_record.decode_head(line(colour="red")) == head()


GOOD = zlib.compress(minimal(43))


def decode(value: bytes) -> Record:
    """The datafile in a value as sidecars of the first version write it."""
    return bus_record.decode(value, KEY, bus_record.inflated)


def digest(body: bytes) -> str:
    """The SHA-256 of these bytes."""
    return hashlib.sha256(body).hexdigest()


def zeros(times: int) -> bytes:
    """So many times MAX_BYTES of zeros, compressed; it is made of equal parts, for to compress them all takes seconds."""
    compressor = zlib.compressobj()
    first = compressor.compress(bytes(MAX_BYTES)) + compressor.flush(zlib.Z_FULL_FLUSH)
    part = compressor.compress(bytes(MAX_BYTES)) + compressor.flush(zlib.Z_FULL_FLUSH)
    return first + part * (times - 1)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (line(), "decompressed|cut off"),
        (line() + b"\n" + minimal(43), "decompressed"),
        (line() + b"\n" + GOOD[:-4], "cut off"),
        (line() + b"\n" + GOOD + b"x", "follows"),
        (line() + b"\n" + zlib.compress(minimal(44)), "describes another"),
        (line(sha256="a" * 64) + b"\n" + GOOD, "describes another"),
        (line(revision=44) + b"\n" + GOOD, "describes another"),
        (line(sha256=digest(minimal(43, "KEY2"))) + b"\n" + zlib.compress(minimal(43, "KEY2")), "sdkKey"),
        (line(sha256=digest(b"<html>")) + b"\n" + zlib.compress(b"<html>"), "not a JSON object"),
        (line() + b"\n" + zeros(100), "larger"),
        (line() + b"\n" + bytes(bus_record.MAX_VALUE_BYTES), "larger"),
    ],
    ids=lambda text: ascii(text[-20:]),
)
def test_a_malformed_record_is_refused_with_a_reason(value: bytes, reason: str) -> None:
    """Cut, exchanged, foreign and hostile values are rejected before a member sees a datafile."""
    with pytest.raises(BadRecordError, match=reason):
        decode(value)


@given(st.binary(max_size=300), st.integers(0, 2000))
def test_no_change_of_a_value_gets_through(noise: bytes, at: int) -> None:
    """Whatever is overwritten in a value, it gives the true datafile or a BadRecordError."""
    value = bus_record.encode(head(), GOOD)
    changed = value[:at] + noise + value[at + len(noise) :]
    try:
        assert decode(changed).datafile.body == minimal(43)
    except BadRecordError:
        assert changed != value
    bus_record.decode_check(changed)


def test_a_check_goes_through_and_garbage_is_none() -> None:
    """A check is decoded whole or not at all."""
    check = Check(at=NOW, sha256="a" * 64, validators=Validators(url="u"))
    assert bus_record.decode_check(check.encode()) == check
    for text in (b"", b"?", b"{}", b"[" * 9000, check.encode().replace(b"1700000000.0", b"1e400")):
        assert bus_record.decode_check(text) is None


@pytest.mark.parametrize(
    ("mine", "theirs", "newer"),
    [
        (head(), head(), False),
        (head(fetched=NOW - 1), head(fetched=NOW - 2), True),
        (head(revision=44), head(revision=43, fetched=NOW), True),
        (head(revision=9), head(revision=10), False),
        (head(revision=7, generation=1), head(revision=43), True),
        (head(fetched=NOW - 1), head(fetched=NOW + 3600), True),
        (head(fetched=NOW + 3600), head(fetched=NOW - 1), False),
    ],
)
def test_the_order_is_generation_revision_and_time_of_the_fetch(mine: Head, theirs: Head, newer: bool) -> None:
    """A time of the fetch in the future makes nothing the newest for ever."""
    assert bus_record.is_newer(mine, theirs, NOW) is newer


@pytest.mark.parametrize(
    "fields",
    [
        {"generation": 0},
        {"generation": 10**9},
        {"revision": 0},
        {"revision": 10**15 - 1},
        {"fetched": 0},
        {"fetched": 1e11},
        {"left": ["a" * 64] * 4},
        {"condition": {"url": "x" * 1024, "etag": "x" * 1024, "last_modified": "x" * 1024}},
        {"id": "0123456789abcdef"},
    ],
    ids=str,
)
def test_a_head_may_go_to_its_limits(fields: dict[str, object]) -> None:
    """No datafile that the sidecar can publish is too large, too old or too often rolled back to be shared."""
    sent = line(**fields)
    assert json.loads(bus_record.decode_head(sent).encode()) == json.loads(sent)


@pytest.mark.parametrize(
    "fields", [{"generation": -1}, {"fetched": -1}, {"fetched": 1.1e11}, {"id": "0" * 15}], ids=str
)
def test_a_head_beyond_its_limits_is_refused(fields: dict[str, object]) -> None:
    """A number that no sidecar writes does not get into the state of the fleet."""
    with pytest.raises(BadRecordError, match="malformed"):
        bus_record.decode_head(line(**fields))


def test_a_head_has_at_most_8192_bytes() -> None:
    """A head of 8192 bytes is read, alone or before a datafile; a longer one is refused before it is decoded."""
    longest = line().ljust(8192)
    for text in (longest, longest + b"\n" + GOOD):
        assert bus_record.decode_head(text) == head()
        assert bus_record.head_line(text) == longest
    for text in (longest + b" ", longest + b" \n" + GOOD):
        assert bus_record.head_line(text) is None
        with pytest.raises(BadRecordError, match="no head within its first 8192 bytes"):
            bus_record.decode_head(text)
    check = Check(at=NOW, sha256="a" * 64).encode()
    assert bus_record.decode_check(check.ljust(9000)) is not None
    assert bus_record.decode_check(check.rjust(8192)) is not None
    assert bus_record.decode_check(check.rjust(8193)) is None


def test_the_largest_datafile_can_be_shared() -> None:
    """A datafile of the largest size that upstream may serve goes through the bus, even if it can't be compressed."""
    body = minimal(43) + b" " * (MAX_BYTES - len(minimal(43)))
    sent = head(body)
    assert decode(sent.encode() + b"\n" + zlib.compress(body, 0)).datafile.body == body
    with pytest.raises(BadRecordError, match="larger"):
        decode(sent.encode() + b"\n" + zlib.compress(body + b" "))


@pytest.mark.parametrize("fields", [{"at": -1}, {"at": 1.1e11}, {"sha256": "a" * 63}, {"v": 2}], ids=str)
def test_a_check_beyond_its_limits_is_none(fields: dict[str, object]) -> None:
    """A check from an impossible time, or of another version, confirms nothing."""
    sent = json.loads(Check(at=NOW, sha256="a" * 64).encode())
    assert bus_record.decode_check(json.dumps(sent).encode()) is not None
    assert bus_record.decode_check(json.dumps(sent | fields).encode()) is None


def test_the_same_datafile_is_the_same_whenever_it_was_fetched() -> None:
    """Another digest, another generation, or another rollback makes it another one."""
    assert bus_record.is_same(head(), head(fetched=NOW + 1, id="1" * 16))
    for change in ({"generation": 1}, {"sha256": "b" * 64}, {"rolled_back_from": ("c" * 64,)}):
        assert not bus_record.is_same(head(), head(**change))
