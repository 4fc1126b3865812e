"""Which sidecars and workers lag behind, and how the fleet is shown."""

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datafile_sidecar.core.fleet_status import (
    InvalidStatusError,
    StatusResponse,
    deduplicate,
    lagging,
    latest_revision,
    parse,
)
from datafile_sidecar.core.fleet_table import errors, table

NOW = 1_700_000_000.0


def worker(revision: int | None, pid: int = 17) -> dict[str, Any]:
    return {"id": "0a1b2c3d", "pid": pid, "host": "app-1", "revision": revision, "seen": "2023-11-14T22:13:00.000Z"}


def sidecar(
    pod: str = "pod-1",
    *,
    workers: Any = (),
    settled: bool = True,
    state: str = "on",
    about: dict[str, Any] | None = None,
    **key: Any,
) -> StatusResponse:
    fields = {"revision": 43, "target_revision": 43, "trigger": "peer", "checked": "2023-11-14T22:13:00.000Z", **key}
    status = {
        "pod": pod,
        "instance": f"{pod}-1",
        "keys": {"KEY1": fields | {"workers": list(workers)}},
        "workers": {"state": state, "settled": settled, "last_error": None} | (about or {}),
    }
    return StatusResponse(f"{pod}:8088", parse(json.dumps(status).encode()))


def behind(*responses: StatusResponse, wanted: int | None = 43, workers_required: bool = True) -> list[str]:
    return lagging(responses, "KEY1", wanted, workers_required=workers_required)


def test_nothing_lags() -> None:
    """When every worker of every pod uses the revision or a newer one, nothing lags."""
    answers = sidecar(revision=44, workers=[worker(43), worker(44)]), sidecar("pod-2", workers=[worker(43)])
    assert behind(*answers) == []


@pytest.mark.parametrize(
    ("response", "sentence"),
    [
        (StatusResponse("10.0.0.4:8088", problem="unreachable: refused"), "10.0.0.4:8088: unreachable: refused"),
        (sidecar(workers=[worker(43), worker(42, pid=18)]), "worker 0a1b2c3d (pid 18 on app-1) uses revision 42"),
        (sidecar(workers=[worker(None)]), "(pid 17 on app-1) has no datafile"),
        (sidecar(workers=[worker(44)]), "uses revision 44, and the volume has 43"),
        (sidecar(revision=42, workers=[worker(43)]), "has revision 42 on its volume"),
        (
            sidecar(sha256="ab" * 32, workers=[worker(43) | {"sha256": "cd" * 8}]),
            "uses revision 43, but with other bytes than the volume has",
        ),
        (
            sidecar(workers=[worker(42) | {"refused": {"revision": 43, "reason": "too \x1b new"}}]),
            "worker 0a1b2c3d (pid 17 on app-1) can't use revision 43: too \\x1b new; it uses revision 42",
        ),
        (
            sidecar(workers=[worker(None) | {"refused": {"revision": None, "reason": "unreadable"}}]),
            "can't use what was published: unreadable; it has no datafile",
        ),
        (
            sidecar(workers=[worker(43)], about={"unreported": [{"id": "ffffffff", "pid": 18}]}),
            "worker ffffffff (pid 18) lives and does not report",
        ),
        (
            sidecar(workers=[worker(43)], about={"presence": "unknown", "last_error": "more than 256"}),
            "pod-1 (pod-1:8088): more than 256",
        ),
        (sidecar(revision=None, workers=[worker(43)]), "has no datafile on its volume"),
        (sidecar(), "no worker is connected"),
        (sidecar(workers=[worker(43)], settled=False), "workers may still be reconnecting"),
        (sidecar(state="off"), "workers can't connect"),
        (StatusResponse("a", parse(b'{"pod": "old", "keys": {}}')), "does not serve this SDK key"),
    ],
)
def test_lagging_pods_and_workers_are_named(response: StatusResponse, sentence: str) -> None:
    """Each pod and worker that has not confirmed the revision is named with what it has, and no other."""
    (lagging_sentence,) = behind(sidecar("fine", workers=[worker(43)]), response)
    assert sentence in lagging_sentence
    assert "fine" not in lagging_sentence


def test_other_bytes_of_a_revision_are_another_datafile() -> None:
    """Two pods with one revision and different digests don't decide alike; where a digest is not known, the revision counts."""
    same, other = sidecar("pod-1", sha256="ab" * 32), sidecar("pod-2", sha256="cd" * 32)
    assert behind(same, same, sidecar("pod-3"), workers_required=False) == []
    assert behind(same, other, workers_required=False) == [
        "pod-2 (pod-2:8088): has other bytes of revision 43 than pod-1 (pod-1:8088)"
    ]
    assert behind(sidecar(sha256="ab" * 32, workers=[worker(43) | {"sha256": "ab" * 8}, worker(43)])) == []


def test_pods_without_workers_may_be_allowed() -> None:
    """With --allow-no-workers, the file is enough for a pod without clients, but not where workers may be unheard."""
    assert behind(sidecar(), workers_required=False) == []
    assert len(behind(sidecar(state="off"), workers_required=False)) == 1
    assert len(behind(sidecar(settled=False), workers_required=False)) == 1
    assert len(behind(sidecar(workers=[worker(42)]), workers_required=False)) == 1


def test_nothing_known_is_never_enough() -> None:
    """When no sidecar knows a revision, `latest` is not confirmed."""
    answer = sidecar(revision=None, target_revision=None, workers=[worker(None)])
    assert latest_revision([answer, StatusResponse("x", problem="down")], "KEY1") is None
    assert len(behind(answer, wanted=None)) == 2


def test_latest_includes_announced_revisions() -> None:
    """`latest` includes a revision that was announced but not fetched yet: a change under way is waited for."""
    assert latest_revision([sidecar(revision=43, target_revision=45), sidecar(revision=44)], "KEY1") == 45


def test_a_copied_identity_hides_nothing() -> None:
    """Of two answers with the same identity that differ, both count: a stranger can't speak for a pod that lags."""
    answers = [sidecar("a", workers=[worker(43)]), sidecar("a", workers=[worker(42)])]
    for order in (answers, answers[::-1]):
        assert len(behind(*deduplicate(order))) == 1
    newer = sidecar("a", target_revision=45, workers=[worker(43)])
    assert latest_revision(deduplicate([answers[0], newer]), "KEY1") == 45


def test_one_sidecar_at_two_addresses_is_one() -> None:
    """A sidecar asked directly and again as its own peer is shown once; sidecars without an instance id are never merged."""
    copied = StatusResponse("z", parse(b'{"pod": "z", "instance": "a-1", "keys": {}}'))
    assert deduplicate([sidecar("a"), copied]) == [sidecar("a"), copied]
    bare = StatusResponse("a", parse(b'{"pod": "p", "keys": {}}'))
    assert deduplicate([sidecar("a"), sidecar("b"), sidecar("a"), bare, bare]) == [
        sidecar("a"),
        sidecar("b"),
        bare,
        bare,
    ]


def test_the_table() -> None:
    """The user sees for each pod its revision, target, last check, trigger, and what its workers use."""
    answers = [
        sidecar(workers=[worker(43), worker(42), worker(43)], target_revision=44),
        sidecar("pod-2", settled=False, trigger="bus"),
        StatusResponse("10.0.0.4:8088", problem="unreachable: refused"),
    ]
    assert table(answers, None, NOW) == [
        "POD    KEY   REVISION  TARGET  CHECKED   TRIGGER  WORKERS",
        "pod-1  KEY1  43        44      20 s ago  peer     1 at 42, 2 at 43",
        "pod-2  KEY1  43        43      20 s ago  bus      more may connect",
        "10.0.0.4:8088  –     unreachable: refused",
    ]
    assert len(table(answers, "KEY2", NOW)) == 2


def test_ages_are_by_the_clock_of_the_sidecar() -> None:
    """A pod whose clock differs from ours shows the true age; a moment in its future is none."""

    def shown(now: str, checked: str) -> str:
        keys = {"KEY1": {"revision": 43, "checked": checked}}
        status = {"pod": "p", "instance": "i", "now": now, "keys": keys}
        return table([StatusResponse("p", parse(json.dumps(status).encode()))], None, NOW)[1]

    assert " 20 s ago " in shown("2023-11-14T21:00:20.000Z", "2023-11-14T21:00:00.000Z")
    assert " in the future " in shown("2023-11-14T21:00:20.000Z", "2023-11-14T22:00:00.000Z")
    assert " 20 s ago " in shown("nonsense", "2023-11-14T22:13:00.000Z")


def test_errors() -> None:
    """A volume that is not writable is reported with pod and key."""
    answers = [
        sidecar(),
        sidecar("pod-2", last_error="no space left\x1b[2J"),
        StatusResponse("10.0.0.4:8088", problem="down"),
    ]
    assert errors(answers, None) == ["pod-2 (pod-2:8088): KEY1: no space left\\x1b[2J"]
    assert errors(answers, "KEY2") == []


@given(st.text(st.characters(), max_size=80), st.text(max_size=80))
def test_untrusted_text_moves_no_cursor(pod: str, text: str) -> None:
    """No name or text of a pod can colour, clear or break the table in the user's terminal."""
    status = {"pod": pod, "keys": {pod: {"trigger": text, "checked": text, "last_error": text, "workers": [worker(1)]}}}
    try:
        answer = StatusResponse("place", parse(json.dumps(status).encode()))
    except InvalidStatusError:
        return
    lines = [*table([answer], None, NOW), *errors([answer], None), *lagging([answer], pod, 5, workers_required=True)]
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"\xff", b'{"pod": 1, "keys": {}}', b"[" * 100_000, b"<html>"])
def test_invalid_status(body: bytes) -> None:
    """Another server at a sidecar's address is not taken for a sidecar."""
    with pytest.raises(InvalidStatusError):
        parse(body)


@pytest.mark.parametrize(
    ("checked", "shown"),
    [
        ("2023-11-14T22:13:20.000Z", "0 s ago"),
        ("2023-11-14T22:13:30.000Z", "in the future"),
        ("2023-11-15T00:13:10.000+02:00", "10 s ago"),
        ("2023-11-14T22:03:20.600Z", "599 s ago"),
        ("2023-11-14T22:03:20.000Z", "10 min ago"),
        ("2023-11-14T20:13:20.000Z", "120 min ago"),
        ("yesterday", "–"),
        ("", "–"),
        (None, "–"),
        ("0001-01-01T00:00:00+23:59", "–"),
    ],
)
def test_the_age_of_the_last_check(checked: str | None, shown: str) -> None:
    """The user reads seconds for ten minutes, then minutes; a clock that is ahead, or no time at all, breaks nothing."""
    assert re.split(" {2,}", table([sidecar(checked=checked)], None, NOW)[1])[4] == shown


def test_a_revision_has_its_limits() -> None:
    """Every revision that a sidecar can have is shown; a number that none can have makes the answer invalid."""
    for value in (0, 2**63 - 1):
        assert table([sidecar(revision=value, target_revision=value)], None, NOW)[1].split()[2:4] == [str(value)] * 2
    for value in (-1, 2**63):
        with pytest.raises(InvalidStatusError):
            sidecar(revision=value)


def test_a_worker_has_its_limits() -> None:
    """Every process id is shown; one that no system has makes the answer invalid."""
    assert len(behind(sidecar(workers=[worker(0, pid=0), worker(0, pid=2**31 - 1)]))) == 2
    for pid in (-1, 2**31):
        with pytest.raises(InvalidStatusError):
            sidecar(workers=[worker(43, pid=pid)])


def test_texts_have_their_limit() -> None:
    """A sidecar can report an error of 4096 characters; more is no answer of a sidecar, and 120 are shown."""
    (line,) = errors([sidecar(last_error="x" * 4096)], None)
    assert line == f"pod-1 (pod-1:8088): KEY1: {'x' * 119}…"
    assert errors([sidecar(last_error="x" * 120)], None) == [f"pod-1 (pod-1:8088): KEY1: {'x' * 120}"]
    with pytest.raises(InvalidStatusError):
        sidecar(last_error="x" * 4097)


def test_an_older_sidecar_says_less() -> None:
    """A sidecar that doesn't report its workers counts as one to which no worker can connect."""
    bare = StatusResponse("a", parse(b'{"pod": "old", "keys": {"KEY1": {"revision": 43}}}'))
    assert behind(bare) == ["old (a): workers can't connect: no reason given"]
    assert behind(bare, workers_required=False) == ["old (a): workers can't connect: no reason given"]
    assert table([bare], None, NOW)[1].split() == ["old", "KEY1", "43", "–", "–", "–", "unknown"]
    on = StatusResponse("a", parse(b'{"pod": "old", "keys": {"KEY1": {"revision": 43}}, "workers": {"state": "on"}}'))
    assert behind(on) == ["old (a): workers may still be reconnecting"]


def test_workers_are_counted_by_revision() -> None:
    """The user sees how many workers use which revision, and those without a datafile as revision 0."""
    cells = [
        re.split(" {2,}", table([sidecar(workers=workers, settled=settled)], None, NOW)[1])[-1]
        for workers, settled in (([], True), ([worker(None), worker(43), worker(None)], True), ([worker(43)], False))
    ]
    assert cells == ["none", "2 at 0, 1 at 43", "1 at 43, more may connect"]


def test_a_lagging_pod_says_why() -> None:
    """The sentence about a pod ends with the error that the sidecar reports, and each worker has its own sentence."""
    answer = sidecar(revision=42, last_error="no space", workers=[worker(42)])
    assert behind(answer) == [
        "pod-1 (pod-1:8088): has revision 42 on its volume: no space",
        "pod-1 (pod-1:8088): worker 0a1b2c3d (pid 17 on app-1) uses revision 42",
    ]
    assert lagging([answer], "KEY2", 42, workers_required=True) == ["pod-1 (pod-1:8088): does not serve this SDK key"]


def test_one_key_of_several() -> None:
    """The table and the errors show all keys in order, or the one that was asked for."""
    status = {"pod": "p", "keys": {name: {"revision": 1, "last_error": f"e{name}"} for name in ("B", "A")}}
    answer = StatusResponse("a", parse(json.dumps(status).encode()))
    assert [row.split()[1] for row in table([answer], None, NOW)] == ["KEY", "A", "B"]
    assert [row.split()[1] for row in table([answer], "B", NOW)] == ["KEY", "B"]
    assert errors([answer], None) == ["p (a): A: eA", "p (a): B: eB"]
    assert errors([answer], "B") == ["p (a): B: eB"]
