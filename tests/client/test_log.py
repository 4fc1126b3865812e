"""What this package logs is seen, and an app's own logging can't hurt it."""

import logging
import logging.config
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from datafile_client import _log
from datafile_client.testing import write_datafile
from tests.client.conftest import MakeWatcher
from tests.client.helpers import publish, wait_until, watching


class Raises(logging.Filter):
    """A filter with a fault."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error, self.calls = error, 0

    def filter(self, record: logging.LogRecord) -> bool:
        self.calls += 1
        raise self.error


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """The package's logger, as it was before when the test is over."""
    logger = logging.getLogger("datafile_client")
    level = logger.level
    yield logger
    logger.filters.clear()
    logger.disabled = False
    logger.setLevel(level)


@pytest.mark.parametrize("error", [RuntimeError("handler down"), SystemExit(3), KeyError("x")], ids=repr)
def test_a_filter_that_raises_ends_nothing(
    error: BaseException, directory: Path, make_watcher: MakeWatcher, logger: logging.Logger
) -> None:
    """A user with a fault in a log filter still gets each revision, from the same thread."""
    faulty = Raises(error)
    logger.setLevel(logging.INFO)
    logger.addFilter(faulty)
    publish(directory, 1)
    watcher = make_watcher()
    watcher.start()
    threads = watching()
    for revision in range(2, 5):
        publish(directory, revision)
        assert watcher.wait_for_revision(revision, timeout=20)
    assert faulty.calls >= 4
    assert watching() == threads != []


def test_a_callback_that_fails_is_seen_after_dictconfig(
    directory: Path, make_watcher: MakeWatcher, caplog: pytest.LogCaptureFixture, logger: logging.Logger
) -> None:
    """A user who sets logging up with `disable_existing_loggers`, its default, still reads what fails."""
    publish(directory, 1)
    watcher = make_watcher()
    watcher.on_update(lambda _: sys.exit("trouble"))
    logger.disabled = True  # what dictConfig does
    watcher.start()
    wait_until(lambda: "callback failed at revision 1" in caplog.text)


def test_what_fails_without_end_is_logged_once_a_minute(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user's log is not filled by a fault that stays."""
    now = 1000.0
    monkeypatch.setattr(_log, "monotonic", lambda: now)
    for _ in range(180):
        _log.error_now_and_then("it fails for %s", "KEY1")
        now += 1
    assert caplog.text.count("it fails for KEY1") == 3


def test_a_file_that_is_not_there_yet_is_no_warning(
    directory: Path, make_watcher: MakeWatcher, caplog: pytest.LogCaptureFixture
) -> None:
    """A newcomer whose app is up before its sidecar reads nothing of a missing file, unless one that was there is gone."""
    watcher = make_watcher()
    with pytest.raises(Exception, match="No such file"):
        watcher.start(timeout=0.5)
    assert "No such file" not in caplog.text
    path = write_datafile(directory, "KEY1", publish(directory, 1))
    assert watcher.wait_for_revision(1, timeout=20)
    path.unlink()
    wait_until(lambda: "No such file" in caplog.text)
