"""What a new pod makes of the answers of a few peers."""

import json

import pytest

from datafile_sidecar.core import fleet_status
from datafile_sidecar.core.fleet_status import SidecarStatus
from datafile_sidecar.core.newest_revision import agreed_revision


def status(instance: str | None, revision: int | None, generation: int | None = 0) -> SidecarStatus:
    key = {"revision": revision, "generation": generation, "target_revision": 99}
    return fleet_status.parse(json.dumps({"pod": "p", "instance": instance, "keys": {"KEY1": key}}).encode())


@pytest.mark.parametrize(
    ("answers", "agreed"),
    [
        ([], None),
        ([status("a", 43)], None),
        ([status("a", 43), status("b", 43)], (0, 43)),
        ([status("a", 43), status("b", 44)], None),
        ([status("a", 43), status("b", 44), status("c", 43)], (0, 43)),
        ([status("a", 43, 0), status("b", 43, 1)], None),
        ([status("a", 43, 1), status("b", 43, 1)], (1, 43)),
        ([status("a", None, None), status("b", None, None)], None),
        ([status("a", 43, None), status("b", 43, 0)], (0, 43)),
        # One pod at two addresses is one, and who does not say which one it is does not count.
        ([status("a", 43), status("a", 43)], None),
        ([status(None, 43), status(None, 43)], None),
    ],
)
def test_two_alike(answers: list[SidecarStatus], agreed: tuple[int, int] | None) -> None:
    """Only what two sidecars have in the same generation counts; what they expect does not."""
    assert agreed_revision(answers, "KEY1") == agreed
    assert agreed_revision(answers, "KEY2") is None


def test_the_later_generation_is_the_newer() -> None:
    """After a rollback the lower revision is the one that the fleet has."""
    answers = [status("a", 43), status("b", 43), status("c", 40, 1), status("d", 40, 1)]
    assert agreed_revision(answers, "KEY1") == (1, 40)
