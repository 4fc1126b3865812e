"""One key's datafile on the volume: what a restart makes of what it finds, and what people are told."""

import os
from pathlib import Path

import pytest

from datafile_sidecar.core import datafile
from datafile_sidecar.core.state import State
from datafile_sidecar.sync.store import KeyStore
from datafile_sidecar.volume.directory import Volume
from tests.datafiles import minimal

KEY = "KEY1"


class Clock:
    """Unix seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


async def published(volume: Volume, *revisions: tuple[int, int]) -> KeyStore:
    """A store that has published these (revision, generation), a second apart."""
    clock = Clock()
    store = KeyStore(KEY, volume, clock)
    for revision, generation in revisions:
        clock.now += 1
        await store.publish(datafile.parse(minimal(revision), KEY), "poll", generation, (), fetched=clock.now)
        store.note_change(None)
    return store


async def test_a_restart_remembers_when_and_in_which_generation(tmp_path: Path) -> None:
    """What the status file says of the bytes beside it is what /status says after a restart."""
    volume = Volume(tmp_path)
    before = (await published(volume, (42, 3))).view(State())
    after = KeyStore(KEY, volume)
    loaded = await after.load()
    assert loaded.record is not None
    assert (loaded.record.revision, loaded.record.generation) == (42, 3)
    assert after.view(State()) == before | {"changes": []}


@pytest.mark.parametrize(
    ("stayed", "was_to_come", "generation"),
    [((42, 2), (43, 2), 2), ((42, 2), (41, 3), 2), ((42, 0), (41, 1), 0), ((42, 0), (43, 0), 0)],
)
async def test_a_death_between_the_two_renames_loses_no_generation(
    tmp_path: Path, stayed: tuple[int, int], was_to_come: tuple[int, int], generation: int
) -> None:
    """The status of what was to come tells the generation of what stayed: going back alone raises it."""
    volume = Volume(tmp_path)
    await published(volume, stayed)
    kept = (tmp_path / f"{KEY}.json").read_bytes()
    await published(volume, was_to_come)
    (tmp_path / f"{KEY}.json").write_bytes(kept)
    loaded = await KeyStore(KEY, volume).load()
    assert loaded.record is not None
    assert (loaded.record.revision, loaded.record.generation) == (stayed[0], generation)


async def test_a_datafile_without_a_status_is_as_good(tmp_path: Path) -> None:
    """A file that somebody else left is loaded with what can be known of it."""
    (tmp_path / f"{KEY}.json").write_bytes(minimal(42))
    store = KeyStore(KEY, Volume(tmp_path))
    loaded = await store.load()
    assert loaded.record is not None
    assert loaded.record.generation == 0
    view = store.view(State())
    assert (view["revision"], view["trigger"], view["published"], view["checked"]) == (42, "startup", None, None)


async def test_checks_reach_the_volume_at_most_once_a_second(tmp_path: Path) -> None:
    """An upstream that is asked ten times a second does not make the disk busy, and /status is exact all the same."""
    volume, clock = Volume(tmp_path), Clock()
    store = KeyStore(KEY, volume, clock)
    await store.publish(datafile.parse(minimal(42), KEY), "poll", 0, (), fetched=clock.now)
    inodes = set()
    for _ in range(30):
        clock.now += 0.1
        await store.note(0, (), clock.now)
        inodes.add(os.stat(tmp_path / f"{KEY}.status.json").st_ino)
    assert store.checked == clock.now
    assert 2 <= len(inodes) <= 4


async def test_the_last_ten_changes_are_remembered(tmp_path: Path) -> None:
    """The page shows what came, when and by which way, without growing."""
    store = await published(Volume(tmp_path), *((revision, 0) for revision in range(1, 26)))
    changes = store.view(State())["changes"]
    assert [change["revision"] for change in changes] == list(range(16, 26))
    assert changes[0].keys() == {"revision", "trigger", "published", "propagation_s", "what"}
