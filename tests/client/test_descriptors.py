"""Descriptors that belong to one process: what a forked child closes, and what wakes whom."""

import os
import socket
import threading
import time

import pytest

from datafile_client._descriptors import Wake, close_in_children, opening
from tests.client.helpers import forked


class Socket:
    """One end of a pair, which children must not keep."""

    def __init__(self) -> None:
        with opening():
            self.ours, self.theirs = socket.socketpair()
            close_in_children(self)

    def abandon(self) -> None:
        """Close what a child has inherited."""
        self.ours.close()


def test_a_child_keeps_no_copy() -> None:
    """A connection ends with its process, whatever that has forked; the parent's goes on while the child lives."""
    pair = Socket()
    child = forked()
    try:
        pair.ours.send(b"x")
        assert pair.theirs.recv(1) == b"x"
        pair.ours.close()
        pair.theirs.settimeout(20)
        assert pair.theirs.recv(1) == b""
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
        pair.theirs.close()


def test_a_fork_waits_until_a_descriptor_is_noted() -> None:
    """A child that is forked while another thread opens something would not know what it has to close."""
    is_open, order = threading.Event(), list[str]()

    def open_slowly() -> None:
        with opening():
            is_open.set()
            time.sleep(0.2)
            order.append("noted")

    thread = threading.Thread(target=open_slowly)
    thread.start()
    assert is_open.wait(20)
    child = forked(0)
    order.append("forked")
    os.waitpid(child, 0)
    thread.join()
    assert order == ["noted", "forked"]


@pytest.mark.parametrize("has_descriptors", [True, False])
def test_a_wake_is_waited_for(has_descriptors: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that waits is woken by any other; where the process has no descriptor left, too."""

    def fail() -> None:
        raise OSError(24, "Too many open files")

    if not has_descriptors:
        monkeypatch.setattr(socket, "socketpair", fail)
    wake = Wake()
    assert not wake.wait(0.01)
    threading.Timer(0.05, wake.set).start()
    assert wake.wait(20)
    assert wake.is_set()
    for _ in range(100_000):
        wake.set()  # never blocks, though nobody reads
    wake.clear()
    assert not wake.is_set()
    assert not wake.wait(0.01)
    wake.close()
    wake.set()


def test_a_socket_ends_the_wait() -> None:
    """The thread waits for what the sidecar says and for other threads at once."""
    wake, (ours, theirs) = Wake(), socket.socketpair()
    assert not wake.wait(0.01, [ours])
    theirs.send(b"x")
    assert wake.wait(20, [ours])
    ours.recv(1)
    theirs.close()
    assert wake.wait(20, [ours])
    ours.close()
    wake.close()
