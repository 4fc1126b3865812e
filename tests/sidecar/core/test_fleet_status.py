"""Who lags in the fleet, and how it is shown."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datafile_sidecar.core.fleet_status import (
    Answer,
    MalformedReportError,
    complaints,
    lagging,
    latest,
    once,
    parse,
    table,
)

NOW = 1_700_000_000.0


def worker(revision: int | None, pid: int = 17) -> dict[str, Any]:
    return {"id": "0a1b2c3d", "pid": pid, "host": "app-1", "revision": revision, "seen": "2023-11-14T22:13:00.000Z"}


def sidecar(pod: str = "pod-1", *, workers: Any = (), settled: bool = True, state: str = "on", **key: Any) -> Answer:
    fields = {"revision": 43, "target_revision": 43, "trigger": "peer", "checked": "2023-11-14T22:13:00.000Z", **key}
    status = {
        "pod": pod,
        "instance": f"{pod}-1",
        "keys": {"KEY1": fields | {"workers": list(workers)}},
        "workers": {"state": state, "settled": settled, "last_error": None},
    }
    return Answer(f"{pod}:8088", parse(json.dumps(status).encode()))


def behind(*answers: Answer, wanted: int | None = 43, workers_needed: bool = True) -> list[str]:
    return lagging(answers, "KEY1", wanted, workers_needed=workers_needed)


def test_nobody_lags() -> None:
    """When every worker of every pod decides by the revision or a newer one, nobody is named."""
    answers = sidecar(workers=[worker(43), worker(44)]), sidecar("pod-2", workers=[worker(43)])
    assert behind(*answers) == []


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (Answer("10.0.0.4:8088", problem="can't be asked: refused"), "10.0.0.4:8088: can't be asked: refused"),
        (sidecar(workers=[worker(43), worker(42, pid=18)]), "worker 0a1b2c3d (pid 18 on app-1) decides by revision 42"),
        (sidecar(workers=[worker(None)]), "decides by no datafile"),
        (sidecar(revision=42, workers=[worker(43)]), "has revision 42 on its volume"),
        (sidecar(revision=None, workers=[worker(43)]), "has no datafile on its volume"),
        (sidecar(), "no worker is connected"),
        (sidecar(workers=[worker(43)], settled=False), "may not have come back"),
        (sidecar(state="off"), "can't hear its workers"),
        (Answer("a", parse(b'{"pod": "old", "keys": {}}')), "does not serve this SDK key"),
    ],
)
def test_who_lags_is_named(answer: Answer, sentence: str) -> None:
    """Whoever is not known to have the revision is named, with what is known of them, and nobody else is."""
    (told,) = behind(sidecar("fine", workers=[worker(43)]), answer)
    assert sentence in told
    assert "fine" not in told


def test_pods_without_workers_may_be_allowed() -> None:
    """With --allow-no-workers, a pod without a client is done by its file, but one that waits for workers still is not."""
    assert behind(sidecar(), sidecar(state="off"), workers_needed=False) == []
    assert len(behind(sidecar(settled=False), workers_needed=False)) == 1
    assert len(behind(sidecar(workers=[worker(42)]), workers_needed=False)) == 1


def test_nothing_known_is_never_enough() -> None:
    """Where no sidecar knows of any revision, `latest` is not reached by everybody having nothing."""
    answer = sidecar(revision=None, target_revision=None, workers=[worker(None)])
    assert latest([answer, Answer("x", problem="down")], "KEY1") is None
    assert len(behind(answer, wanted=None)) == 2


def test_latest_is_what_anybody_waits_for() -> None:
    """`latest` counts a revision that was only announced yet: the flip that is under way is the one that is waited for."""
    assert latest([sidecar(revision=43, target_revision=45), sidecar(revision=44)], "KEY1") == 45


def test_one_sidecar_at_two_addresses_is_one() -> None:
    """A sidecar that is asked as itself and again as its own peer stands in the table once; unknown ones are never merged."""
    bare = Answer("a", parse(b'{"pod": "p", "keys": {}}'))
    assert once([sidecar("a"), sidecar("b"), sidecar("a"), bare, bare]) == [sidecar("a"), sidecar("b"), bare, bare]


def test_the_table() -> None:
    """A person sees for each pod what it has, what it wants, since when, by which way, and what its workers decide by."""
    answers = [
        sidecar(workers=[worker(43), worker(42), worker(43)], target_revision=44),
        sidecar("pod-2", settled=False, trigger="bus"),
        Answer("10.0.0.4:8088", problem="can't be asked: refused"),
    ]
    assert table(answers, None, NOW) == [
        "POD    KEY   REVISION  TARGET  CHECKED   WAY   WORKERS",
        "pod-1  KEY1  43        44      20 s ago  peer  1 at 42, 2 at 43",
        "pod-2  KEY1  43        43      20 s ago  bus   more may come",
        "10.0.0.4:8088  –     can't be asked: refused",
    ]
    assert len(table(answers, "KEY2", NOW)) == 2


def test_what_is_wrong_stands_under_the_table() -> None:
    """A volume that can't be written to shows without being asked for, with the pod and the key."""
    answers = [sidecar(), sidecar("pod-2", last_error="no space left\x1b[2J"), Answer("10.0.0.4:8088", problem="down")]
    assert complaints(answers, None) == ["pod-2 (pod-2:8088): KEY1: no space left\\x1b[2J"]
    assert complaints(answers, "KEY2") == []


@given(st.text(st.characters(), max_size=80), st.text(max_size=80))
def test_a_strangers_text_moves_no_cursor(pod: str, way: str) -> None:
    """Nothing that a pod calls itself can colour, clear or break the table in somebody's terminal."""
    status = {"pod": pod, "keys": {pod: {"trigger": way, "checked": way, "last_error": way, "workers": [worker(1)]}}}
    try:
        answer = Answer("place", parse(json.dumps(status).encode()))
    except MalformedReportError:
        return
    lines = [*table([answer], None, NOW), *complaints([answer], None), *lagging([answer], pod, 5, workers_needed=True)]
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"\xff", b'{"pod": 1, "keys": {}}', b"[" * 100_000, b"<html>"])
def test_what_is_no_report_is_told(body: bytes) -> None:
    """Something else that answers at a sidecar's address is not taken for one."""
    with pytest.raises(MalformedReportError):
        parse(body)
