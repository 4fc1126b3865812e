"""What each pod leaves on the bus: short, never better than the truth, and safe to read."""

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datafile_sidecar.core import fleet_record, fleet_status
from datafile_sidecar.core.fleet_record import MAX_RECORD_BYTES, BadRecordError, FleetRecord
from datafile_sidecar.core.fleet_status import (
    KeyStatus,
    RefusalStatus,
    SidecarStatus,
    StatusResponse,
    UnreportedStatus,
    WorkersStatus,
    WorkerStatus,
)

KEY = "KEY1"
SETTLED = WorkersStatus(state="on", settled=True, presence="locks")

texts = st.text(max_size=300)
revisions = st.none() | st.integers(41, 44)
digests = st.none() | st.sampled_from(["a" * 16, "b" * 16])
workers = st.builds(
    WorkerStatus,
    id=st.sampled_from(["00000001", "00000002"]),
    pid=st.integers(0, 2**31 - 1),
    host=texts,
    revision=revisions,
    sha256=digests,
    refused=st.none() | st.builds(RefusalStatus, reason=texts, revision=revisions),
)
keys = st.builds(
    KeyStatus,
    revision=revisions,
    target_revision=revisions,
    sha256=st.none() | st.sampled_from(["a" * 64, "b" * 64]),
    last_error=st.none() | texts,
    checked=st.just("2026-01-31T12:00:00.000Z"),
    workers=st.lists(workers, max_size=12).map(tuple),
)
presences = st.builds(
    WorkersStatus,
    state=st.sampled_from(["on", "off"]),
    settled=st.booleans(),
    presence=st.sampled_from(["locks", "connections", "unknown"]),
    unreported=st.lists(st.builds(UnreportedStatus, id=st.just("00000003"), pid=st.integers(0, 9)), max_size=5).map(
        tuple
    ),
    last_error=st.none() | texts,
)


def read_back(key: KeyStatus, presence: WorkersStatus) -> SidecarStatus:
    record = fleet_record.decode(fleet_record.encode(fleet_record.describe(key, presence)))
    return fleet_record.status_of(record, "pod", "1", KEY)


def behind(status: SidecarStatus, wanted: int) -> list[str]:
    return fleet_status.lagging([StatusResponse("pod", status)], KEY, wanted, workers_required=True)


@given(keys, presences, st.integers(41, 44))
def test_the_bus_says_yes_only_where_the_pod_does(key: KeyStatus, presence: WorkersStatus, wanted: int) -> None:
    """Whatever the workers of a pod do and call themselves, its record fits, and no worker that lags is lost in it."""
    said = behind(SidecarStatus("pod", {KEY: key}, "1", workers=presence), wanted)
    read = behind(read_back(key, presence), wanted)
    assert bool(said) <= bool(read)
    assert len(fleet_record.encode(fleet_record.describe(key, presence))) <= MAX_RECORD_BYTES
    if sum(len(one.host) + len(one.refused.reason if one.refused else "") for one in key.workers) < 50 and not said:
        assert not read


def test_workers_that_are_alike_are_counted_together() -> None:
    """A pod of 256 workers has room; who lags is named, with the number of those like it."""
    fine = [WorkerStatus(f"{number:08x}", number, "app", 43, "a" * 16) for number in range(200)]
    old = [WorkerStatus(f"{number:08x}", number, "app", 42, "b" * 16) for number in range(200, 256)]
    status = read_back(KeyStatus(revision=43, sha256="a" * 64, workers=(*fine, *old)), SETTLED)
    assert status.keys[KEY].worker_count == 256
    assert behind(status, 43) == [
        "pod (pod): worker 000000c8 (pid 200 on app) uses revision 42, and so do 55 more workers"
    ]
    assert behind(status, 42) == []


def test_who_has_no_place_is_a_no() -> None:
    """Of more kinds of workers than fit into a record, one that refuses what is published is not lost."""
    kinds = [WorkerStatus(f"{number:08x}", number, "app", 42, f"{number:016x}") for number in range(40)]
    refusing = WorkerStatus("0a1b2c3d", 17, "app", 43, "a" * 16, RefusalStatus("too new", 43))
    read = read_back(KeyStatus(revision=43, sha256="a" * 64, workers=(*kinds, refusing)), SETTLED)
    assert read.keys[KEY].worker_count == 41
    (sentence,) = behind(read, 42)
    assert "more of its workers are not as the volume, and not listed" in sentence


def test_workers_that_differ_are_not_counted_together() -> None:
    """Clients that report no digest are told apart by their revision."""
    first, second = (WorkerStatus(f"{number:08x}", number, "app", number) for number in (42, 43))
    assert len(behind(read_back(KeyStatus(revision=43, workers=(first, second)), SETTLED), 43)) == 1


def test_the_reasons_are_those_of_the_pod() -> None:
    """Unheard workers, an unknown presence and refusals are said as the pod itself says them."""
    refusing = WorkerStatus("0a1b2c3d", 17, "app", 42, None, RefusalStatus("too new", 43))
    for key, presence in (
        (KeyStatus(revision=43, workers=(refusing,)), SETTLED),
        (KeyStatus(revision=42, last_error="No space left on device", workers=()), SETTLED),
        (KeyStatus(revision=43), msgspec.structs.replace(SETTLED, unreported=(UnreportedStatus("00000003", 7),))),
    ):
        whole = SidecarStatus("pod", {KEY: key}, "1", workers=presence)
        assert behind(read_back(key, presence), 43) == behind(whole, 43)
    unknown = msgspec.structs.replace(SETTLED, presence="unknown", last_error="more than 256 processes")
    assert behind(read_back(KeyStatus(revision=43), unknown), 43) == ["pod (pod): more than 256 processes"]


@given(st.lists(workers, max_size=4).map(tuple), st.sampled_from(["a" * 64, "b" * 64]))
def test_it_is_applied_when_all_use_what_the_volume_has(some: tuple[WorkerStatus, ...], sha256: str) -> None:
    """A receipt takes its times from pods whose workers all use the datafile of the volume, its bytes too."""
    key = KeyStatus(revision=43, sha256=sha256, workers=some)
    record = fleet_record.describe(key, SETTLED)
    uses = [(one.revision == 43, one.refused is None, sha256.startswith(one.sha256 or "")) for one in some]
    assert record.is_applied == all(map(all, uses))
    assert not msgspec.structs.replace(record, doubt="?").is_applied
    assert not msgspec.structs.replace(record, unlisted=1).is_applied


def test_what_is_the_same_is_no_change() -> None:
    """A time that moves by itself makes no `status` read ten thousand records again; a revision does."""
    record = FleetRecord(at=1, revision=43, checked="2026-01-31T12:00:00.000Z")
    assert record.is_as(msgspec.structs.replace(record, at=6, checked="2026-01-31T12:01:00.000Z"))
    assert not record.is_as(msgspec.structs.replace(record, revision=44))


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"[]",
        b'{"at":-1}',
        b'{"at":1e300}',
        b'{"at":NaN}',
        b'{"every":1e9}',
        b'{"every":0}',
        b'{"revision":-1}',
        b'{"workers":[{"id":"1","pid":1,"host":"a","count":0}]}',
        b'{"last_error":"\xff"}',
        b"{" * 500,
        b'{"at":1}' + b" " * MAX_RECORD_BYTES,
    ],
)
def test_what_is_no_record(value: bytes) -> None:
    """Whatever else a client of the broker writes there is refused, and not taken for a pod."""
    with pytest.raises(BadRecordError):
        fleet_record.decode(value)


@given(st.binary(max_size=200))
def test_any_bytes(value: bytes) -> None:
    """Reading them ends with a record or with BadRecordError."""
    with contextlib.suppress(BadRecordError):
        assert isinstance(fleet_record.decode(value), FleetRecord)
