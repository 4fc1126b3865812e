"""The clock of the time limits goes on when an app's tests freeze time."""

from pathlib import Path
from typing import Any

import pytest

from datafile_client import DatafileUnavailableError
from tests.client.conftest import MakeWatcher
from tests.client.helpers import publish


@pytest.fixture
def frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop the clocks that freezegun stops."""
    for name in ("monotonic", "time", "perf_counter"):
        monkeypatch.setattr(f"time.{name}", lambda: 1000.0)


def test_limits_end_though_the_clock_stands(directory: Path, make_watcher: MakeWatcher, frozen: None) -> None:
    """A user whose tests freeze time gets the errors and the flips that they wait for."""
    watcher = make_watcher()
    with pytest.raises(DatafileUnavailableError):
        watcher.start(timeout=0.3)
    publish(directory, 1)
    assert watcher.wait_for_revision(1, timeout=20)
    assert not watcher.wait_for_revision(2, timeout=0.3)
    publish(directory, 2)
    assert watcher.wait_for_revision(2, timeout=20)


@pytest.mark.system
def test_limits_end_under_freezegun(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user of freezegun sees flips, and reads no age that the frozen clock can't know."""
    freezegun: Any = pytest.importorskip("freezegun", reason="freezegun is not installed: requirements/system.in")
    publish(directory, 1)
    with freezegun.freeze_time("2026-01-01", tick=False):
        watcher = make_watcher(stale_after_s=60)
        watcher.start(timeout=10)
        publish(directory, 2)
        assert watcher.wait_for_revision(2, timeout=20)
        assert not watcher.wait_for_revision(3, timeout=0.3)
        assert watcher.status().stale is False
        watcher.stop()
