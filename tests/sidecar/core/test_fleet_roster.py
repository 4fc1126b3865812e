"""When what pods left on the bus proves something, and when not."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datafile_sidecar.core import fleet_record, fleet_roster
from datafile_sidecar.core.fleet_record import FleetRecord, WorkerGroup
from datafile_sidecar.core.fleet_roster import OFF_TABLE_S, SETTLE_S, Excuses, Roster
from datafile_sidecar.core.fleet_status import StatusResponse
from datafile_sidecar.core.fleet_summary import summarise
from datafile_sidecar.core.fleet_table import table
from datafile_sidecar.core.wait_target import WaitTarget

KEY, NOW = "KEY1", 1_800_000_000.0
TARGET = WaitTarget(KEY, 43)
FINE = FleetRecord(at=NOW - 1, revision=43, workers=(WorkerGroup("0a1b2c3d", 17, "app", 2, 43),))
OLD = FleetRecord(at=NOW - 1, revision=42, workers=(WorkerGroup("0a1b2c3d", 17, "app", 1, 42),))


def heard(record: FleetRecord, ago_s: float) -> FleetRecord:
    return msgspec.structs.replace(record, at=NOW - ago_s)


def read(
    pods: dict[str, FleetRecord | bytes],
    excuses: Excuses = Excuses(),  # noqa: B008 – immutable
    *,
    since: float | None = NOW - 100,
    listeners: int = 0,
    expected: int | None = None,
) -> list[StatusResponse]:
    records = {
        name.encode(): value if isinstance(value, bytes) else fleet_record.encode(value) for name, value in pods.items()
    }
    roster = Roster(KEY, records, NOW, since, listeners)
    answers = fleet_roster.responses(roster, excuses)
    return [*answers, *fleet_roster.doubts(roster, answers, expected=expected)]


def test_a_yes() -> None:
    """Every pod is heard and has the revision: nothing lags, and all are counted."""
    answers = read({"checkout-1/a": FINE, "checkout-2/b": FINE}, listeners=2)
    assert TARGET.lagging(answers) == []
    summary = TARGET.summary(answers)
    assert (summary.pods, summary.workers, summary.confirmed, summary.silent) == (2, 4, 2, 0)


def test_a_pod_of_the_same_name_is_another_pod() -> None:
    """Two StatefulSets of one name, or a pod that takes another's name: each has to confirm for itself."""
    (sentence,) = TARGET.lagging(read({"checkout-1/a": FINE, "checkout-1/b": OLD}))[:1]
    assert sentence == "checkout-1 (b): has revision 42 on its volume"
    assert TARGET.summary(read({"checkout-1/a": FINE, "checkout-1/b": OLD})).pods == 2


@pytest.mark.parametrize(
    ("ago_s", "every_s", "words"),
    [
        (15.5, 5, "it has not been heard for 16 s"),
        (700, 5, "it has not been heard for 700 s"),
        (200, 60, "it has not been heard for 200 s"),
        (-2, 5, "its record claims a time 2 s in the future"),
        (-1e6, 60, "in the future"),
        (NOW, 5, "it has not been heard since the bus lost its memory"),
    ],
)
def test_a_record_that_vouches_for_nothing(ago_s: float, every_s: float, words: str) -> None:
    """A pod that is silent, or claims the future, is a no, whatever its last record says and however long ago that was."""
    answers = read({"checkout-1/a": FINE, "checkout-2/b": msgspec.structs.replace(heard(FINE, ago_s), every=every_s)})
    (sentence,) = TARGET.lagging(answers)
    assert sentence.startswith("checkout-2 (b): ")
    assert words in sentence
    summary = TARGET.summary(answers)
    assert (summary.silent, summary.workers, summary.revisions) == (1, 2, ((43, 1),))


@pytest.mark.parametrize(("ago_s", "every_s"), [(14.5, 5), (0, 5), (-0.5, 5), (170, 60)])
def test_a_record_that_vouches(ago_s: float, every_s: float) -> None:
    """A record counts for three times the time after which its pod repeats it."""
    assert TARGET.lagging(read({"p/a": msgspec.structs.replace(heard(FINE, ago_s), every=every_s)})) == []


def test_who_is_excused_is_silent_and_named() -> None:
    """`--forget` and `--excuse-after` are for pods that are not heard; one that is heard and lags is never excused."""
    pods: dict[str, FleetRecord | bytes] = {
        "checkout-1/a": FINE,
        "gone-1/b": heard(OLD, 100),
        "gone-2/c": heard(OLD, 30),
    }
    assert len(TARGET.lagging(read(pods))) == 2
    answers = read(pods, Excuses(pods=("gone-?",)))
    assert TARGET.lagging(answers) == []
    summary = TARGET.summary(answers)
    assert (summary.pods, summary.excused) == (1, ("gone-1 (b)", "gone-2 (c)"))
    assert [s.split()[0] for s in TARGET.lagging(read(pods, Excuses(after_s=60)))] == ["gone-2"]
    assert TARGET.lagging(read(pods, Excuses(after_s=20))) == []
    assert TARGET.lagging(read({"lives-1/a": OLD}, Excuses(("*",), 0)))
    assert TARGET.lagging(read({"ahead-1/a": heard(FINE, -100)}, Excuses(after_s=0)))


def test_a_pod_that_others_have_named_is_silent_since_then() -> None:
    """After a broker lost its memory, `--excuse-after` counts from the moment at which pods registered again."""
    pods: dict[str, FleetRecord | bytes] = {"checkout-1/a": FINE, "cut-off-1/b": FleetRecord()}
    assert TARGET.lagging(read(pods, Excuses(after_s=60), since=NOW - 30))
    assert TARGET.lagging(read(pods, Excuses(after_s=60), since=NOW - 61)) == []
    assert TARGET.lagging(read(pods, Excuses(("cut-*",)), since=NOW - 30)) == []


def test_who_is_forgotten() -> None:
    """`--forget` removes a pod that was silent for ten minutes from the bus, and no other; `--excuse-after` removes none."""
    pods = {
        b"gone-1/a": fleet_record.encode(heard(OLD, OFF_TABLE_S + 1)),
        b"gone-2/b": fleet_record.encode(heard(OLD, OFF_TABLE_S - 1)),
        b"gone-3/c": fleet_record.encode(FleetRecord()),
        b"gone-4": b"?",
        b"checkout-1/d": fleet_record.encode(heard(OLD, OFF_TABLE_S + 1)),
        b"gone-5/e": fleet_record.encode(FINE),
    }
    roster = Roster(KEY, pods, NOW, NOW - 1e6, 0)
    assert fleet_roster.forgotten(roster, Excuses(("gone-*", ""), 1.0)) == [b"gone-1/a", b"gone-3/c", b"gone-4"]


def test_ten_minutes_later_it_is_not_in_the_table() -> None:
    """The table shows who was heard lately; the proof, and what is said of it, has all."""
    answers = read(
        {"checkout-1/a": FINE, "gone-1/b": heard(OLD, OFF_TABLE_S - 1), "gone-2/c": heard(OLD, OFF_TABLE_S + 1)}
    )
    shown = "\n".join(table(answers, KEY, NOW))
    assert "gone-1" in shown
    assert "gone-2" not in shown
    assert any("gone-2" in sentence for sentence in TARGET.lagging(answers))


def test_more_listeners_than_pods() -> None:
    """A pod of an older version listens and does not register: that is no yes. Fewer listeners prove nothing."""
    pods: dict[str, FleetRecord | bytes] = {"checkout-1/a": FINE, "checkout-2/b": FINE}
    (sentence,) = TARGET.lagging(read(pods, listeners=3))
    assert sentence.startswith("bus: 3 connections listen there, and 2 pods are registered")
    assert TARGET.lagging(read(pods, listeners=1)) == []


@pytest.mark.parametrize("since", [None, NOW - SETTLE_S + 0.5, NOW + 1000])
def test_a_broker_without_a_memory(since: float | None) -> None:
    """Just after it came back empty, not all pods may have registered again: no yes yet."""
    assert len(TARGET.lagging(read({"checkout-1/a": FINE}, since=since))) == 1
    assert TARGET.lagging(read({"checkout-1/a": FINE}, since=NOW - SETTLE_S)) == []


def test_nobody_is_no_yes() -> None:
    """A key of which no pod has registered is not confirmed."""
    assert TARGET.lagging(read({})) == ["bus: no pod has registered for KEY1"]


def test_the_expected_number() -> None:
    """With `--expect`, exactly so many pods must be heard, and no other doubt counts; a silent one still lags."""
    pods: dict[str, FleetRecord | bytes] = {"checkout-1/a": FINE, "checkout-2/b": FINE}
    assert TARGET.lagging(read(pods, expected=2, listeners=3, since=NOW)) == []
    assert TARGET.lagging(read(pods, expected=3)) == ["bus: pods that are heard: 2, expected: 3"]
    assert len(TARGET.lagging(read(pods | {"gone-1/c": heard(FINE, 99)}, expected=2))) == 1


@given(st.binary(max_size=330), st.binary(max_size=80) | st.just(fleet_record.encode(FINE)))
def test_hostile_fields_move_no_cursor(name: bytes, value: bytes) -> None:
    """Whatever is written there is shown on one line, and is a no unless it is a pod's record under a pod's name."""
    answers = fleet_roster.responses(Roster(KEY, {name: value}, NOW, 0.0, 0), Excuses())
    shown = [*table(answers, None, NOW), *TARGET.lagging(answers), *summarise(answers, KEY, 43).lines()]
    assert all(line.isprintable() for line in shown)
    pod, slash, instance = name.rpartition(b"/")
    assert bool(TARGET.lagging(answers)) != (bool(pod and slash and instance) and value == fleet_record.encode(FINE))
