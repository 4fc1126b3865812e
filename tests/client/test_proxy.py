"""Work at the end of a process is bounded, and what stands for an object of the SDK hides how it ends."""

import threading
import time

import pytest

from datafile_client._proxy import Proxy, run_until


def test_work_that_hangs_is_left_at_the_deadline() -> None:
    """A user's shutdown goes on though the app's own component does not return."""
    release, began = threading.Event(), time.monotonic()
    assert not run_until(began + 0.2, lambda: release.wait(30))
    assert 0.2 <= time.monotonic() - began < 10
    release.set()


def test_work_that_fails_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A user reads why a component did not stop, and the rest is stopped."""
    assert run_until(time.monotonic() + 20, lambda: 1 / 0)
    assert "ZeroDivisionError" in caplog.text


def test_without_a_thread_the_work_is_done_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's events are sent also at the very end of the interpreter, where no thread starts any more."""

    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    done: list[threading.Thread] = []
    assert run_until(time.monotonic() + 20, lambda: done.append(threading.current_thread()))
    assert done == [threading.current_thread()]


def test_stop_is_hidden() -> None:
    """A user who closes an old instance does not stop what the new one uses."""

    class Target:
        name = "target"

        def stop(self) -> None: ...

    proxy = Proxy(lambda _: Target())
    assert proxy.name == "target"
    assert not hasattr(proxy, "stop")
