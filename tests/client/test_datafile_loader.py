"""What is loaded, what is not, and when it is tried again."""

import time
from pathlib import Path
from typing import Any

import pytest

from datafile_client import DatafileUnavailableError
from tests.client.conftest import MakeWatcher
from tests.client.helpers import publish


def test_an_unusable_fallback_is_named_in_the_error(directory: Path, make_watcher: MakeWatcher, tmp_path: Path) -> None:
    """A user whose fallback is broken reads that where the start fails, not only in the log."""
    fallback = tmp_path / "fallback.json"
    fallback.write_text("{")
    watcher = make_watcher(fallback=fallback)
    with pytest.raises(DatafileUnavailableError, match=r"the fallback cannot be used .*fallback\.json: not JSON"):
        watcher.start(timeout=0.1)


def test_a_build_that_failed_for_a_passing_reason_is_tried_again(
    directory: Path, make_watcher: MakeWatcher, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A user whose process was out of memory for a moment gets the revision that it could not build then."""
    publish(directory, 1)
    watcher = make_watcher()
    watcher.start()
    build, failures = watcher._builder.build, [3]

    def fails(*arguments: Any, **options: Any) -> Any:
        if failures[0]:
            failures[0] -= 1
            raise MemoryError("no memory")
        return build(*arguments, **options)

    monkeypatch.setattr(watcher._builder, "build", fails)
    began = time.monotonic()
    publish(directory, 2)
    assert watcher.wait_for_revision(2, timeout=30)
    assert time.monotonic() - began > 1 + 2 + 4 - 1, "each pause is longer"
    assert caplog.text.count("no memory\n") >= 1
    assert watcher.status().last_error is None
