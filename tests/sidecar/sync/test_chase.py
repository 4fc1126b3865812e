"""A CDN that is late, or asks for fewer requests, with a bus: one or two pods ask it for all, and a flip is as fast as ever."""

from collections.abc import Iterator

import pytest

from datafile_sidecar.core.source_rotation import CDN
from datafile_sidecar.core.state import Trigger
from datafile_sidecar.upstream import FetchError
from tests.sidecar.sync.model import ORIGIN, POLL_S
from tests.sidecar.sync.test_fleet_machine import Fleet

PODS = 12
LATE_S = 6.0
ALONE = 40
"""What one pod asks in these seconds, at most."""


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    fleet = Fleet(PODS)
    fleet.wait(2)
    for pod in fleet.pods:
        pod.view.fetches.clear()
    fleet.optimizely.fetches.clear()
    yield fleet
    fleet.close()


def flip(fleet: Fleet, late_s: float, direct: int | None = 0) -> float:
    """Announce a revision that will be served so much later: to one pod, and by that to all others; when it was."""
    fleet.optimizely.issue(11)
    begun = fleet.loop.time()
    for place in (CDN, ORIGIN):
        fleet.optimizely.history[place].append((begun + late_s, 11))
    for number, pod in enumerate(fleet.pods):
        fleet.announce(pod, 11, Trigger.WEBHOOK if number == direct else Trigger.PEER)
    return begun


def chasers(fleet: Fleet, since: float, until: float) -> int:
    """How many pods asked upstream in this time."""
    return sum(any(since <= at < until for at in pod.view.fetches) for pod in fleet.pods)


def have(fleet: Fleet) -> int:
    """How many pods have the revision that was flipped."""
    return sum(pod.body == fleet.optimizely.bodies[11] for pod in fleet.pods)


def test_a_late_cdn_is_chased_by_two_pods_at_a_time(fleet: Fleet) -> None:
    """The one that got the webhook, and one of those that were told by it; all have the revision a moment after it is served."""
    begun = flip(fleet, LATE_S)
    fleet.wait(LATE_S + 1)
    assert have(fleet) == PODS
    assert sum(len(pod.view.fetches) for pod in fleet.pods) <= 2 * ALONE
    assert fleet.broker.chase_questions <= PODS * LATE_S
    for second in range(int(LATE_S)):
        # A second in which the lease goes from one pod to another has both.
        assert 1 <= chasers(fleet, begun + second, begun + second + 1) <= 3


def test_where_the_pod_that_got_the_webhook_dies_another_chases(fleet: Fleet) -> None:
    """One at a time, as often as it would have: nothing is lost, and there is still no storm."""
    begun = flip(fleet, LATE_S)
    fleet.pods[0].bus.cut()
    fleet.pods[0].view.stale_until = float("inf")
    fleet.wait(LATE_S + 3)
    assert have(fleet) == PODS - 1
    assert ALONE / 2 <= sum(len(pod.view.fetches) for pod in fleet.pods[1:]) <= ALONE + PODS
    assert all(chasers(fleet, begun + second, begun + second + 1) <= 3 for second in range(int(LATE_S)))


def test_without_the_bus_every_pod_chases_for_itself(fleet: Fleet) -> None:
    """A pod that is cut off while another chases for it goes on by itself, and no lease is waited for."""
    flip(fleet, LATE_S)
    fleet.wait(2)
    for pod in fleet.pods:
        pod.bus.cut()
    fleet.wait(LATE_S)
    assert have(fleet) == PODS


def test_a_direct_webhook_asks_no_lease(fleet: Fleet) -> None:
    """While another pod holds it for ever, the pod that gets the webhook fetches at once, and the others have it by the bus."""
    fleet.broker.chased_until = float("inf")
    begun = flip(fleet, 0.0)
    fleet.wait(0.1)
    assert have(fleet) == PODS
    assert chasers(fleet, begun, begun + 1) == 1


def test_a_lease_that_never_ends_costs_a_poll_interval_at_most(fleet: Fleet) -> None:
    """Garbage under its key: pods that were only told of a revision find it by the next poll."""
    fleet.broker.chased_until = float("inf")
    flip(fleet, 0.0, direct=None)
    fleet.wait(10 * 60 + 2 * POLL_S)
    assert have(fleet) == PODS


def test_a_429_slows_the_polls_of_the_fleet(fleet: Fleet) -> None:
    """Pods that find the CDN throttled do not try one after the other: six requests a minute for all, however many they are."""
    fleet.optimizely.failure = FetchError("throttled", "HTTP 429")
    fleet.optimizely.fails_until = dict.fromkeys(fleet.optimizely.fails_until, float("inf"))
    begun = fleet.loop.time()
    fleet.wait(10 * POLL_S)
    assert len(fleet.optimizely.fetches) <= 10 * POLL_S / 10 + PODS
    assert chasers(fleet, begun, fleet.loop.time()) > 1


def test_a_429_does_not_slow_a_flip(fleet: Fleet) -> None:
    """The pod that gets the webhook asks at once, whatever it was told before; so all have the revision as soon as it is served."""
    fleet.optimizely.failure = FetchError("throttled", "HTTP 429")
    until = fleet.loop.time() + 2 * POLL_S
    fleet.optimizely.fails_until = dict.fromkeys(fleet.optimizely.fails_until, until)
    fleet.wait(2 * POLL_S + 1)
    flip(fleet, 0.0)
    fleet.wait(0.1)
    assert have(fleet) == PODS
