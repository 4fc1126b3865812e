"""What one pod remembers of the others."""

from datafile_sidecar.bus.fleet_memory import FleetMemory
from datafile_sidecar.bus.fleet_store import Registered

OWN = b"a/1"


def heard(*names: bytes, since: bytes = b"1 x") -> Registered:
    return Registered(since, names)


def test_nobody_is_lost_with_the_memory_of_the_broker() -> None:
    """Pods that were there before are named once, the pod itself and what is no pod are not."""
    memory = FleetMemory(OWN)
    assert memory.learn("KEY1", heard(OWN, b"since", b"b/1", b"c/1")) == frozenset()
    assert memory.learn("KEY1", heard(b"b/1")) == frozenset()
    assert memory.learn("KEY1", heard(OWN, since=b"2 y")) == {b"b/1", b"c/1"}
    assert memory.learn("KEY1", heard(OWN, since=b"2 y")) == frozenset()
    assert memory.learn("KEY1", heard(OWN, since=b"3 z")) == {b"b/1", b"c/1"}


def test_a_pod_that_ended_is_forgotten() -> None:
    """A pod that was not read for six times is not brought back."""
    memory = FleetMemory(OWN)
    memory.learn("KEY1", heard(b"b/1", b"x" * 1000))
    for _ in range(5):
        memory.learn("KEY1", heard(b"c/1"))
    assert memory.learn("KEY1", heard(b"c/1", since=b"2 y")) == {b"b/1", b"c/1"}
    for _ in range(5):
        memory.learn("KEY1", heard(b"c/1", since=b"2 y"))
    assert memory.learn("KEY1", heard(since=b"3 z")) == {b"c/1"}


def test_keys_are_apart() -> None:
    """Services that share a broker don't bring back each other's pods."""
    memory = FleetMemory(OWN)
    memory.learn("KEY1", heard(b"b/1"))
    memory.learn("KEY2", heard(b"c/1", since=b"9 z"))
    assert memory.learn("KEY2", heard(since=b"2 y")) == {b"c/1"}
    assert memory.learn("KEY1", heard()) == frozenset()
    for number in range(300):
        memory.learn(f"OTHER{number}", heard(b"d/1"))
    assert memory.learn("KEY1", heard(since=b"2 y")) == {b"b/1"}
