"""Reading and watching the datafile: in every state of the directory, and whatever is in the file's place."""

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from datafile_client import OptimizelyWatcher
from datafile_client._datafile_reader import MAX_BYTES, DatafileReader
from datafile_client.errors import InvalidDatafileError
from datafile_client.testing import make_datafile, write_datafile
from tests.client.conftest import MakeWatcher
from tests.client.helpers import ROOT, decide, publish, wait_until, write_status
from tests.client.reads import record_reads, wait_for_reads
from tests.descriptors import open_below


def follow_by_events(watcher: OptimizelyWatcher, directory: Path, revision: int) -> None:
    """Publish three more revisions and see each loaded, for a watcher whose rescan does not come in time.

    The thread looks at the file once before its watch begins and once right after. So at least the last is found by an event.
    """
    for number in range(revision + 1, revision + 4):
        write_datafile(directory, "KEY1", make_datafile({}, revision=number))
        assert watcher.wait_for_revision(number, timeout=20)


def test_a_directory_that_comes_late_is_found(tmp_path: Path, make_watcher: MakeWatcher) -> None:
    """A user whose app is up before the directory gets the datafile when both are there."""
    late = tmp_path / "late" / "deep"
    watcher = make_watcher(directory=late, fallback=_fallback(tmp_path))
    watcher.start(timeout=0)
    write_datafile(late, "KEY1", make_datafile({}, revision=2))
    assert watcher.wait_for_revision(2, timeout=20)
    write_datafile(late, "KEY1", make_datafile({}, revision=3))
    assert watcher.wait_for_revision(3, timeout=20)


@pytest.mark.parametrize("how", ["removed", "renamed away"])
def test_a_replaced_directory_is_watched_again(
    how: str, directory: Path, make_watcher: MakeWatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user keeps deciding while the directory is gone, and follows the new one."""
    monkeypatch.setattr(
        "datafile_client._directory_monitor._TICK_MAX_S", 0.2
    )  # how often it looks for the new directory
    publish(directory, 1)
    watcher = make_watcher(rescan_interval_s=300)
    watcher.start()
    follow_by_events(watcher, directory, 1)
    if how == "removed":
        shutil.rmtree(directory)
    else:
        directory.rename(directory.with_name("away"))
    wait_until(lambda: watcher.status().last_error is not None)
    assert watcher.revision == 4
    directory.mkdir()
    publish(directory, 5)
    assert watcher.wait_for_revision(5, timeout=20)
    follow_by_events(watcher, directory, 5)
    assert watcher.status().last_error is None


@pytest.mark.parametrize("name", [".venv", "node_modules", "__pycache__", "x~"])
def test_a_directory_of_any_name_is_watched(name: str, tmp_path: Path, make_watcher: MakeWatcher) -> None:
    """A user may keep the datafile in a directory that watchfiles' own filter would pass over."""
    directory = tmp_path / name / "data"
    write_datafile(directory, "KEY1", make_datafile({}, revision=1))
    watcher = make_watcher(directory=directory, rescan_interval_s=300)
    watcher.start()
    follow_by_events(watcher, directory, 1)


def test_a_config_map_swap_is_seen(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user of a ConfigMap volume, where only the link ..data moves, gets the new flags by the event."""
    for number in range(1, 5):
        write_datafile(directory / f"..{number}", "KEY1", make_datafile({}, revision=number))
    (directory / "..data").symlink_to("..1")
    (directory / "KEY1.json").symlink_to("..data/KEY1.json")
    watcher = make_watcher(rescan_interval_s=300)
    watcher.start()
    for revision in (2, 3, 4):  # as in follow_by_events
        (directory / "..tmp").symlink_to(f"..{revision}")
        (directory / "..tmp").rename(directory / "..data")
        assert watcher.wait_for_revision(revision, timeout=20)


def test_what_cannot_be_read_costs_no_descriptor(directory: Path) -> None:
    """A user who has a directory in the file's place, as a wrong mount leaves one, does not run out of descriptors."""
    (directory / "KEY1.json").mkdir()
    source = DatafileReader(directory, "KEY1")
    for _ in range(5):
        with pytest.raises(InvalidDatafileError, match="Is a directory"):
            source.read_if_changed()
    assert open_below(directory) == []


def test_an_event_is_not_needed(directory: Path) -> None:
    """A user on a mount without events gets the change with the next tick."""
    source = DatafileReader(directory, "KEY1")
    publish(directory, 1)
    content = source.read_if_changed()
    assert content is not None
    assert source.read_if_changed() is None
    assert content.data == publish(directory, 1)
    assert source.read_if_changed() == content
    publish(directory, 2)
    assert source.read_if_changed() is not None


def test_without_a_watcher_it_polls(directory: Path) -> None:
    """A user on a node that is out of descriptors still gets new flags, and reads one warning."""
    publish(directory, 1)
    code = """
import logging, os, resource, sys
from datafile_client import OptimizelyWatcher
logging.basicConfig(level=logging.WARNING)
watcher = OptimizelyWatcher(sdk_key="KEY1", directory=sys.argv[1], rescan_interval_s=0.1)
held = os.open("/dev/null", os.O_RDONLY)
resource.setrlimit(resource.RLIMIT_NOFILE, (held + 2, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
watcher.start()
for revision in range(1, 6):
    assert watcher.wait_for_revision(revision, timeout=20)
    print(revision, flush=True)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code, directory], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as app:
        assert app.stdout is not None
        for revision in range(1, 6):  # each is found by another tick, and each tick tries to watch
            publish(directory, revision)
            assert app.stdout.readline() == f"{revision}\n"
        _, log = app.communicate(timeout=20)
    assert app.returncode == 0, log
    assert log.count("Cannot watch for changes") == 1
    assert "Too many open files" in log


BAD = {
    "empty": b"",
    "blank": b"  \n",
    "HTML": b"<html>Sign in</html>",
    "cut in half": make_datafile({"checkout": True}, revision=9)[:300],
    "null": b"null",
    "a list": b"[]",
    "an empty object": b"{}",
    "UTF-16": make_datafile({}, revision=9).decode().encode("utf-16"),
    "invalid UTF-8": b'{"version":"4\xff"}',
    "deep": b"[" * 100_000,
    "a giant number": b'{"revision":' + b"9" * 5_000 + b"}",
    "revision as a number": make_datafile({}, revision=9).replace(b'"revision": "9"', b'"revision": 9'),
    "revision no number": make_datafile({}, revision=9).replace(b'"revision": "9"', b'"revision": "9e9"'),
    "version 5": make_datafile({}, revision=9).replace(b'"version": "4"', b'"version": "5"'),
    "another SDK key": make_datafile({}, revision=9, sdk_key="KEY2"),
    "dangling rollout": make_datafile({"checkout": True}, revision=9).replace(
        b'"rolloutId": "l1"', b'"rolloutId": "no"'
    ),
    "flag without a key": make_datafile({"checkout": True}, revision=9).replace(b'"key": "checkout"', b'"x": "y"'),
    "null flags": make_datafile({}, revision=9).replace(b'"featureFlags": []', b'"featureFlags": null'),
}


# What the SDK's schema would catch or overlooks must be caught, too, where the sidecar is believed and the check is left out.
WELL_FORMED = [
    "revision as a number",
    "revision no number",
    "version 5",
    "another SDK key",
    "dangling rollout",
    "null flags",
]


@pytest.mark.parametrize(
    ("bad", "prevalidated"),
    [*((bad, False) for bad in BAD.values()), *((BAD[name], True) for name in WELL_FORMED)],
    ids=[*BAD, *(f"{name}, prevalidated" for name in WELL_FORMED)],
)
def test_a_bad_file_changes_no_decision(
    bad: bytes,
    prevalidated: bool,
    directory: Path,
    make_watcher: MakeWatcher,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A user keeps the last good flags, reads one line that says why, and gets the next good ones."""
    publish(directory, 3)
    reads = record_reads(monkeypatch)
    watcher = make_watcher(rescan_interval_s=0.01)
    watcher.start()
    if prevalidated:
        write_status(directory, "KEY1", bad)
    write_datafile(directory, "KEY1", bad)
    wait_until(lambda: watcher.status().last_error is not None)
    wait_for_reads(reads, 3)
    assert decide(watcher.optimizely).enabled
    assert watcher.revision == 3
    warnings = [
        record for record in caplog.records if record.name == "datafile_client" and record.levelno > logging.INFO
    ]
    assert len(warnings) == 1
    assert str(directory / "KEY1.json") in warnings[0].getMessage()
    publish(directory, 4)
    assert watcher.wait_for_revision(4, timeout=20)
    assert watcher.status().last_error is None


@pytest.mark.parametrize("kind", ["directory", "dangling link", "FIFO", "sparse", "none"])
def test_what_is_not_a_readable_file_changes_no_decision(kind: str, directory: Path, make_watcher: MakeWatcher) -> None:
    """A user keeps the last good flags whatever takes the file's place, without a hang and without reading a gigabyte."""
    publish(directory, 1)
    watcher = make_watcher()
    watcher.start()
    path = directory / "KEY1.json"
    path.unlink()
    if kind == "directory":
        path.mkdir()
    elif kind == "dangling link":
        path.symlink_to("nowhere")
    elif kind == "FIFO":
        os.mkfifo(path)
    elif kind == "sparse":
        with path.open("wb") as file:
            file.truncate(1 << 30)
    reason = "not a regular file" if kind == "FIFO" else "KEY1.json"
    wait_until(lambda: reason in str(watcher.status().last_error))
    assert watcher.revision == 1
    shutil.rmtree(path) if kind == "directory" else path.unlink(missing_ok=True)
    publish(directory, 1)
    wait_until(lambda: watcher.status().last_error is None)
    publish(directory, 2)
    assert watcher.wait_for_revision(2, timeout=20)


def test_a_missing_file_is_one_line(
    directory: Path, make_watcher: MakeWatcher, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user's log gets one line for one fault, not one a second."""
    publish(directory, 1)
    reads = record_reads(monkeypatch)
    watcher = make_watcher(rescan_interval_s=0.01)
    watcher.start()
    (directory / "KEY1.json").unlink()
    wait_until(lambda: watcher.status().last_error is not None)
    wait_for_reads(reads, 10)
    assert caplog.text.count("No such file") == 1


def test_the_size_is_capped(directory: Path) -> None:
    """A user's app never takes in more than the contract allows."""
    source = DatafileReader(directory, "KEY1")
    write_datafile(directory, "KEY1", b"x" * MAX_BYTES)
    assert source.read_if_changed() is not None
    write_datafile(directory, "KEY1", b"x" * (MAX_BYTES + 1))
    with pytest.raises(InvalidDatafileError, match="more than the 8388608 allowed"):
        source.read_if_changed()


@pytest.mark.parametrize(
    "fields",
    [{"schema": 2}, {"schema": True}, {"schema": "1"}, {"sha256": "other"}, {"checked": "soon"}, {"checked": 5}],
)
def test_only_a_status_file_that_we_understand_is_believed(fields: dict[str, object], directory: Path) -> None:
    """A user's app validates for itself whenever the status file is not clear."""
    datafile = publish(directory, 1)
    write_status(directory, "KEY1", datafile, **fields)
    content = DatafileReader(directory, "KEY1").read_if_changed()
    assert content is not None
    assert content.prevalidated == (fields == {"checked": 5})
    write_status(directory, "KEY1", datafile, unknown="field")
    content = DatafileReader(directory, "KEY1").read_if_changed()
    assert content is not None
    assert content.prevalidated


AGES_AGO = '{"schema":1,"sha256":"","checked":"0001-01-01T00:00:00+23:59"}'


@pytest.mark.parametrize("text", ["", "[]", "null", "{", '{"schema":1}', "[" * 20_000, "x" * 100_000, AGES_AGO])
def test_a_broken_status_file_is_ignored(text: str, directory: Path) -> None:
    """A user's app survives whatever the status file holds."""
    (directory / "KEY1.status.json").write_text(text)
    assert DatafileReader(directory, "KEY1").prevalidated("") == (False, None)


def _fallback(tmp_path: Path) -> Path:
    path = tmp_path / "fallback.json"
    path.write_bytes(make_datafile({}, revision=1))
    return path
