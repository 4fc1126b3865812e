"""The message that announces a datafile: what it says, how long it may be, and that nothing else is accepted."""

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datafile_sidecar.core import bus_message
from datafile_sidecar.core.bus_message import MAX_MESSAGE_BYTES, Change
from datafile_sidecar.core.bus_record import MAX_VALUE_BYTES, BadRecordError
from tests import bus_values
from tests.datafiles import minimal

HEAD = bus_values.head(minimal(43), fetched=1_700_000_000.0, id="1" * 16)
BASE = hashlib.sha256(minimal(42)).hexdigest()
CHANGE = Change(BASE, HEAD.sha256, b"\x28\xb5\x2f\xfd\n\n")


def notice(**fields: object) -> bytes:
    """A message whose second line has these fields, whatever they are."""
    return HEAD.encode() + b"\n" + json.dumps({"v": 1, "size": 9} | fields).encode() + b"\n"


def test_a_change_goes_through_unchanged() -> None:
    """With the head line of its value, the digest of its base, and all its bytes."""
    message = bus_message.decode(bus_message.encode(HEAD, 5000, 7, CHANGE))
    assert (message.head, message.line, message.frame) == (HEAD, HEAD.encode(), CHANGE.frame)
    assert (message.notice.size, message.notice.listeners, message.notice.base) == (5000, 7, BASE)


def test_the_json_is_the_one_that_other_versions_know() -> None:
    """Sidecars of all versions share a broker, so no name in it changes with a name in the code."""
    first, second, frame = bus_message.encode(HEAD, 5000, None, CHANGE).split(b"\n", 2)
    assert first == HEAD.encode()
    assert json.loads(second) == {"v": 1, "size": 5000, "listeners": None, "base": BASE}
    assert frame == CHANGE.frame


@pytest.mark.parametrize(
    "change",
    [None, Change(BASE, "a" * 64, b"x"), Change(BASE, HEAD.sha256, bytes(MAX_MESSAGE_BYTES))],
    ids=["none", "to another datafile", "too long"],
)
def test_a_message_without_a_change_says_so(change: Change | None) -> None:
    """A change that leads elsewhere, or does not fit, is left out: the datafile is announced all the same."""
    message = bus_message.decode(bus_message.encode(HEAD, 5000, 7, change))
    assert (message.head, message.notice.base, message.frame) == (HEAD, None, b"")


def test_a_message_has_at_most_16384_bytes() -> None:
    """A change that fills the message is sent; one byte more is not, and nobody accepts a longer message."""
    around = len(bus_message.encode(HEAD, 5000, 7, Change(BASE, HEAD.sha256, b"")))
    for more, is_sent in ((0, True), (1, False)):
        change = Change(BASE, HEAD.sha256, bytes(16384 - around + more))
        text = bus_message.encode(HEAD, 5000, 7, change)
        assert (len(text) == 16384) is is_sent
        assert (bus_message.decode(text).notice.base == BASE) is is_sent
    with pytest.raises(BadRecordError, match="larger than 16384 bytes"):
        bus_message.decode(notice().ljust(16385))
    assert bus_message.decode(notice().ljust(16384)).notice.size == 9


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}",
        HEAD.encode(),
        HEAD.encode() + b"\n",
        HEAD.encode() + b"\n\n",
        HEAD.encode() + b"\n" + b"[" * 9000,
        HEAD.encode() + b"\n\xff\n",
        notice(v=2),
        notice(size=-1),
        notice(size=MAX_VALUE_BYTES + 1),
        notice(size="9"),
        notice(listeners=-1),
        notice(listeners=1_000_001),
        notice(base="a" * 63),
        notice(base="A" * 64),
        b"\n" + notice(),
    ],
    ids=lambda text: ascii(text[-40:]),
)
def test_a_malformed_message_is_refused(text: bytes) -> None:
    """Garbage of every kind gives the same error, which quotes nothing of it."""
    with pytest.raises(BadRecordError) as caught:
        bus_message.decode(text)
    assert len(str(caught.value)) < 100


@given(st.binary(max_size=300), st.integers(0, 700))
def test_no_noise_breaks_the_reader(noise: bytes, at: int) -> None:
    """Whatever is overwritten in a message, it is understood or refused."""
    text = bus_message.encode(HEAD, 5000, 7, CHANGE)
    try:
        message = bus_message.decode(text[:at] + noise + text[at + len(noise) :])
    except BadRecordError:
        return
    assert 0 <= message.spread_s <= 30


@pytest.mark.parametrize("fields", [{"size": 0}, {"size": MAX_VALUE_BYTES}, {"listeners": 0}, {"listeners": 1_000_000}])
def test_a_message_may_go_to_its_limits(fields: dict[str, int]) -> None:
    """No fleet and no datafile is too large to be announced."""
    [(name, number)] = fields.items()
    assert getattr(bus_message.decode(notice(**fields)).notice, name) == number


def test_fields_of_a_later_version_are_ignored() -> None:
    """A fleet that is being upgraded goes on sharing."""
    assert bus_message.decode(notice(colour="red")).notice.size == 9


@pytest.mark.parametrize(
    ("size", "listeners", "spread_s"),
    [
        (60_000, 5, 0.003),
        (250_000, 10_000, 25.0),
        (250_000, 1_000, 2.5),
        (250_000, None, 2.5),
        (1_500_000, 10_000, 30.0),
        (8_000_000, 1_000_000, 30.0),
        (0, 10_000, 0.0),
    ],
)
def test_values_are_read_over_a_time_that_a_line_of_a_gigabit_needs(
    size: int, listeners: int | None, spread_s: float
) -> None:
    """As long as the number of sidecars and the size ask for, and never longer than half a minute; a few need no time at all."""
    message = bus_message.decode(bus_message.encode(HEAD, size, listeners, None))
    assert message.spread_s == pytest.approx(spread_s)
