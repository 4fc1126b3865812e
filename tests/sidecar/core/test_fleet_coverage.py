"""Whether the sidecars that answered are all that there are."""

from dataclasses import replace

import pytest

from datafile_sidecar.core.fleet_coverage import doubts
from datafile_sidecar.core.fleet_status import SidecarStatus, StatusResponse


def answer(endpoint: str, instance: str | None, *ports: int, is_peer: bool = True) -> StatusResponse:
    return StatusResponse(endpoint, SidecarStatus("pod", {}, instance), None, frozenset(ports), is_peer)


def doubtful(
    *responses: StatusResponse, expected: int | None = None, resolved: dict[str, list[str]] | None = None
) -> list[str]:
    found = doubts(responses, resolved or {}, expected=expected)
    return [f"{one.endpoint}: {one.problem}" for one in found]


OWN = answer("127.0.0.1:8088", "a", 8089, is_peer=False)


def test_no_doubt() -> None:
    """This sidecar at its pod's addresses of both families, and others, each at its own: all are known."""
    again = answer("10.0.0.5:8088", "a", 8089), answer("[fd00::5]:8088", "a", 8089)
    assert doubtful(OWN, *again, answer("10.0.0.6:8088", "b", 8090)) == []
    assert doubtful(OWN, *again, answer("10.0.0.6:8088", "b", 8090), expected=2) == []


@pytest.mark.parametrize(
    ("responses", "sentence"),
    [
        ([answer("10.0.0.5:8088", "a", 1, 2)], "10.0.0.5:8088: one sidecar answers for the webhook ports 1, 2"),
        ([answer("10.0.0.5:8088", None, 1, 2)], "10.0.0.5:8088: one sidecar answers for the webhook ports 1, 2"),
        ([OWN, answer("10.0.0.5:8088", "a", 1)], "127.0.0.1:8088: one sidecar answers for the webhook ports 1, 8089"),
        (
            [answer("10.0.0.5:8088", "a"), answer("10.0.0.6:8088", "a")],
            "10.0.0.5:8088: the same sidecar answers at 10.",
        ),
        ([answer("https://a:1", "a"), answer("b:1", "a")], "https://a:1: the same sidecar answers at b:1"),
        (
            [answer("[fd00::5]:1", "a"), answer("[fd00::6]:1", "a")],
            "[fd00::5]:1: the same sidecar answers at [fd00::6]",
        ),
    ],
)
def test_one_sidecar_does_not_answer_for_two(responses: list[StatusResponse], sentence: str) -> None:
    """Where one sidecar answers in the place of two, the other one is not known; the right number of sidecars settles it."""
    (doubt,) = doubtful(answer("10.0.0.9:8088", "z", 8089), *responses)
    assert doubt.startswith(sentence)
    if responses[0].status and responses[0].status.instance:
        assert doubtful(*responses, expected=1) == []


@pytest.mark.parametrize(("expected", "words"), [(1, "answered: 2, expected: 1"), (3, "answered: 2, expected: 3")])
def test_the_expected_number(expected: int, words: str) -> None:
    """Fewer or more sidecars than expected, of those that answer, are a doubt."""
    silent = StatusResponse("10.0.0.7:8088", problem="unreachable")
    (doubt,) = doubtful(OWN, answer("10.0.0.6:8088", "b"), replace(OWN, endpoint="again"), silent, expected=expected)
    assert words in doubt


def test_answers_without_identity_cannot_be_counted() -> None:
    """One sidecar that is asked twice must not make two."""
    (doubt,) = doubtful(answer("a", None), answer("b", None), expected=2)
    assert "can't be counted" in doubt


@pytest.mark.parametrize(("prefix", "most"), [("10.0.0.", 4000), ("fd00::", 2280)])
def test_as_many_addresses_as_an_answer_holds(prefix: str, most: int) -> None:
    """An answer that may have been cut off is a doubt; each family comes in an answer of its own."""
    addresses = [f"{prefix}{number}" for number in range(most)]
    other = ["10.1.1.1" if ":" in prefix else "fd01::1"] * 2000
    assert doubtful(OWN, resolved={"peers": addresses + other}) == []
    (doubt,) = doubtful(OWN, resolved={"peers": [*addresses, f"{prefix}x"]})
    assert doubt.startswith(f"peers: gave {most + 1} addresses")
    assert doubtful(OWN, resolved={"peers": [*addresses, f"{prefix}x"]}, expected=1) == []
