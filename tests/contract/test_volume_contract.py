"""The volume is as docs/contract.md says: written by the real sidecar's modules, read by the real client."""

import asyncio
import hashlib
import json
import os
import re
import sys
import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from datafile_client import OptimizelyWatcher
from datafile_client._datafile_reader import DatafileReader
from datafile_sidecar.core import datafile
from datafile_sidecar.core.state import Trigger
from datafile_sidecar.sync.store import KeyStore
from datafile_sidecar.volume.directory import Volume, VolumeError
from tests import datafiles
from tests.contract.generated import ROOT

KEY = "KEY1"
_CONTRACT = (ROOT / "docs/contract.md").read_text()
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Volume]:
    """A directory that a sidecar holds."""
    held = Volume(tmp_path)
    yield held
    held.close()


@pytest.fixture
def store(volume: Volume) -> KeyStore:
    """One key on that volume, with a clock that stands still."""
    return KeyStore(KEY, volume, lambda: 1_700_000_000.25)


async def _publish(store: KeyStore, revision: int, trigger: Trigger = Trigger.WEBHOOK) -> bytes:
    body = datafiles.minimal(revision)
    await store.publish(datafile.parse(body, KEY), trigger, 0, (), fetched=1_700_000_000.25)
    return body


def _status(directory: Path) -> dict[str, Any]:
    status: dict[str, Any] = json.loads((directory / f"{KEY}.status.json").read_bytes())
    return status


def _documented_fields() -> dict[str, str]:
    """Field → meaning, from the table of the contract."""
    section = _CONTRACT.partition("### `<sdk_key>.status.json`")[2].partition("###")[0]
    return dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", section, re.MULTILINE))


async def test_names_bytes_and_mode(store: KeyStore, tmp_path: Path) -> None:
    """A reader of another user finds two files, the datafile as it was served, and nothing half-written beside them."""
    before = os.umask(0o077)
    try:
        body = await _publish(store, 42)
    finally:
        os.umask(before)
    assert sorted(os.listdir(tmp_path)) == [f"{KEY}.json", f"{KEY}.status.json"]
    assert (tmp_path / f"{KEY}.json").read_bytes() == body
    assert {path.stat().st_mode & 0o7777 for path in tmp_path.iterdir()} == {0o644}


async def test_status_has_the_documented_fields(store: KeyStore, tmp_path: Path) -> None:
    """The status file holds the fields that the contract lists, in that order, and no others."""
    await _publish(store, 42)
    assert list(_status(tmp_path)) == list(_documented_fields())


async def test_status_describes_the_bytes(store: KeyStore, tmp_path: Path) -> None:
    """Digest, size, revision and times are what the contract says, so that a reader can rely on them."""
    body = await _publish(store, 42)
    status = _status(tmp_path)
    assert status["schema"] == 1
    assert status["sdk_key"] == KEY
    assert status["revision"] == 42
    assert status["sha256"] == hashlib.sha256(body).hexdigest()
    assert status["size"] == len(body)
    assert status["generation"] == 0
    assert status["webhook"] is None
    assert all(_TIME.fullmatch(status[name]) for name in ("fetched", "published", "checked"))
    assert status["fetched"] == "2023-11-14T22:13:20.250Z"


@pytest.mark.parametrize("trigger", list(Trigger))
async def test_every_trigger_is_documented(store: KeyStore, tmp_path: Path, trigger: Trigger) -> None:
    """Whatever made the sidecar fetch, the status file calls it by a name that the contract lists."""
    await _publish(store, 42, trigger)
    assert f"`{_status(tmp_path)['trigger']}`" in _documented_fields()["trigger"]


async def test_status_comes_before_its_datafile(store: KeyStore, tmp_path: Path) -> None:
    """Where the second rename fails, it is the datafile's: no datafile is ever there without the status that vouches for it."""
    (tmp_path / f"{KEY}.json" / "in the way").mkdir(parents=True)
    with pytest.raises(VolumeError, match=rf"{KEY}\.json"):
        await _publish(store, 42)
    assert _status(tmp_path)["revision"] == 42


async def test_failed_status_leaves_the_old_datafile(store: KeyStore, tmp_path: Path) -> None:
    """Where the status can't be renamed into place, the old datafile stays, and no temporary file is left."""
    old = await _publish(store, 42)
    (tmp_path / f"{KEY}.status.json").unlink()
    (tmp_path / f"{KEY}.status.json" / "in the way").mkdir(parents=True)
    with pytest.raises(VolumeError):
        await _publish(store, 43)
    assert (tmp_path / f"{KEY}.json").read_bytes() == old
    assert sorted(os.listdir(tmp_path)) == [f"{KEY}.json", f"{KEY}.status.json"]


async def test_status_is_never_older(store: KeyStore, tmp_path: Path) -> None:
    """Who reads the datafile, then the status, while both are replaced, never sees a status that is older, nor a torn file."""
    await _publish(store, 1)
    behind: list[tuple[int, int]] = []
    reads = 0
    done = threading.Event()

    def read() -> None:
        nonlocal reads
        while not done.is_set():
            revision = int(json.loads((tmp_path / f"{KEY}.json").read_bytes())["revision"])
            described = _status(tmp_path)["revision"]
            reads += 1
            if described < revision:
                behind.append((described, revision))

    reader = asyncio.create_task(asyncio.to_thread(read))
    for revision in range(2, 150):
        await _publish(store, revision)
    done.set()
    await reader
    assert reads > 0
    assert behind == []


async def test_open_file_stays_what_it_was(store: KeyStore, tmp_path: Path) -> None:
    """Who has the datafile open reads to the end of the one that they opened."""
    old = await _publish(store, 42)
    with (tmp_path / f"{KEY}.json").open("rb") as file:
        await _publish(store, 43)
        assert file.read() == old


async def test_foreign_files_are_left_alone(volume: Volume, store: KeyStore, tmp_path: Path) -> None:
    """A file that is not the sidecar's survives its start and its work."""
    for name in ("notes.txt", ".hidden", f".{KEY}.json.tmp", "OTHER.json"):
        (tmp_path / name).write_text("mine")
    volume.clean()
    await _publish(store, 42)
    assert [(tmp_path / name).read_text() for name in ("notes.txt", ".hidden", f".{KEY}.json.tmp", "OTHER.json")] == [
        "mine"
    ] * 4


async def test_second_sidecar_exits(volume: Volume, tmp_path: Path) -> None:
    """A second sidecar on the same directory says so and exits with status 1, and the first goes on."""
    addresses = {"DATAFILE_WEBHOOK_LISTEN": "127.0.0.1:0", "DATAFILE_ADMIN_LISTEN": "127.0.0.1:0"}
    second = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "datafile_sidecar"),
        env={"DATAFILE_SDK_KEYS": KEY, "DATAFILE_DIR": str(tmp_path), **addresses},
        stderr=asyncio.subprocess.PIPE,
    )
    _, printed = await second.communicate()
    assert second.returncode == 1
    assert "another sidecar publishes into" in printed.decode()


async def test_client_trusts_what_the_sidecar_vouches_for(store: KeyStore, tmp_path: Path) -> None:
    """The client takes the published bytes as validated, and bytes that somebody else put there as not."""
    await _publish(store, 42)
    content = DatafileReader(tmp_path, KEY).read_if_changed()
    assert content is not None
    assert content.prevalidated
    (tmp_path / f"{KEY}.json").write_bytes(datafiles.minimal(43))
    content = DatafileReader(tmp_path, KEY).read_if_changed()
    assert content is not None
    assert not content.prevalidated


async def test_client_decides_by_what_the_sidecar_publishes(store: KeyStore, tmp_path: Path) -> None:
    """An app decides by what the sidecar publishes, follows the next revision, and knows when it was last confirmed."""
    await _publish(store, 42)
    async with OptimizelyWatcher(sdk_key=KEY, directory=tmp_path) as watcher:
        assert watcher.revision == 42
        await _publish(store, 43)
        assert await asyncio.to_thread(watcher.wait_for_revision, 43, 10)
        await store.note(0, (), store.now())
        told = watcher.status()
    assert told.checked_at == datetime.fromisoformat(_status(tmp_path)["checked"])
    assert told.sha256 == _status(tmp_path)["sha256"]
    assert told.source == "file"
