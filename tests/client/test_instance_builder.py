"""What lives on when the instance is replaced, and what a rebuild leaves behind: nothing."""

import gc
import json
import logging
import logging.config
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import pytest
from optimizely.config_manager import BaseConfigManager
from optimizely.helpers import validator
from optimizely.optimizely import Optimizely

from datafile_client.testing import make_datafile, write_datafile
from tests.client.conftest import MakeWatcher
from tests.client.helpers import ROOT, decide, publish, wait_until, write_status


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("count", "odp"),
    [
        ("100", "odp"),
        pytest.param("300", "no", marks=pytest.mark.system),
        pytest.param("1000", "odp", marks=pytest.mark.system),
    ],
)
def test_rebuilds_leave_nothing_behind(count: str, odp: str) -> None:
    """A user's app can run for months: memory, threads and descriptors are flat, and one instance is alive."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.client.rebuild_many", count, "230000", odp],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    before, after = figures["before"], figures["after"]
    assert after["rss_kib"] - before["rss_kib"] < min(8 * 1024, int(count) * 27)
    assert (after["threads"], after["descriptors"], after["live"]) == (before["threads"], before["descriptors"], 1)


def test_an_old_instance_goes_with_its_last_reference(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user's memory is free as soon as the last request lets go, without waiting for the garbage collector."""
    publish(directory, 1)
    watcher = make_watcher()
    watcher.start()
    old = weakref.ref(watcher.optimizely)
    gc.disable()
    try:
        publish(directory, 2)
        assert watcher.wait_for_revision(2)
        decide(watcher.optimizely)
        wait_until(lambda: old() is None)
    finally:
        gc.enable()


def test_an_apps_logging_config_brings_no_lines_about_odp(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user whose logging is configured after the import, as Django does, gets no log line at each swap that ODP is disabled."""
    publish(directory, 1)
    watcher = make_watcher()
    watcher.start()
    lines: list[str] = []
    root = logging.getLogger()
    kept = root.level, root.handlers[:]
    logging.config.dictConfig({"version": 1, "disable_existing_loggers": False, "root": {"level": "DEBUG"}})
    root.addHandler(collector := logging.Handler())
    collector.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    try:
        publish(directory, 2)
        assert watcher.wait_for_revision(2)
    finally:
        root.setLevel(kept[0])
        root.handlers[:] = kept[1]
    assert [line for line in lines if "Using revision 2" in line]
    assert not [line for line in lines if "ODP" in line]


def test_the_schema_check_is_left_to_the_sidecar(
    directory: Path, make_watcher: MakeWatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user pays for the schema check only where the sidecar has not made it."""
    checks: list[bytes] = []
    check = validator.is_datafile_valid

    def counted(data: bytes) -> bool:
        checks.append(data)
        return check(data)

    monkeypatch.setattr(validator, "is_datafile_valid", counted)
    watcher = make_watcher()
    datafile = make_datafile({}, revision=1)
    write_status(directory, "KEY1", datafile)
    (directory / "KEY1.json").write_bytes(datafile)
    watcher.start()
    assert not checks
    publish(directory, 2)
    assert watcher.wait_for_revision(2)
    assert len(checks) == 1


def test_the_optimizely_config_is_built_when_asked_for(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user who asks for the OptimizelyConfig gets the right one, built once; other users do not pay for it."""
    datafile = publish(directory, 1)
    watcher = make_watcher()
    watcher.start()
    manager = watcher.optimizely.config_manager
    assert isinstance(manager, BaseConfigManager)
    assert "optimizely_config" not in vars(manager)
    ours = watcher.optimizely.get_optimizely_config()
    assert ours is watcher.optimizely.get_optimizely_config()
    plain = Optimizely(datafile.decode())
    expected = plain.get_optimizely_config()
    plain.close()
    assert ours is not None
    assert expected is not None
    assert ours.get_datafile() == expected.get_datafile()
    assert ours.features_map.keys() == expected.features_map.keys()


def test_no_poller_is_started(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user's workers never ask Optimizely's CDN themselves."""
    publish(directory, 1)
    make_watcher().start()
    assert "PollThread" not in {thread.name for thread in threading.enumerate()}


def test_a_byte_order_mark_does_no_harm(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user whose file was edited by hand, and got a BOM, decides by it."""
    write_datafile(directory, "KEY1", b"\xef\xbb\xbf" + make_datafile({}, revision=43))
    watcher = make_watcher()
    watcher.start()
    assert watcher.revision == 43
