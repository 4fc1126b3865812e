"""What a publication changed, said in words after it: in `/status`, in the log, and never at the expense of a publication."""

import asyncio
import io
import json
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from datafile_sidecar.core import datafile
from datafile_sidecar.core.difference import summary
from datafile_sidecar.core.state import State, Version
from datafile_sidecar.network.turns import Capacity, Turns, Urgency
from datafile_sidecar.observe import logs
from datafile_sidecar.observe.telemetry import Telemetry
from datafile_sidecar.sync.comparisons import Comparisons, Replacement
from datafile_sidecar.sync.store import KeyStore
from datafile_sidecar.volume.directory import Volume
from datafile_sidecar.volume.held_file import HeldFile, Replaced
from tests.datafiles import minimal, realistic

KEY = "KEY1"


class Described:
    """Comparisons that run, with what they have logged and how often they woke whoever waits for the status."""

    def __init__(self) -> None:
        self.stream = io.StringIO()
        self.signals = 0
        self._has_come = asyncio.Event()
        telemetry = Telemetry(logs.configure("info", "json", self.stream), time.monotonic)
        self.capacity = Capacity()
        self.comparisons = Comparisons(telemetry, self._signal, self.capacity)

    def _signal(self) -> None:
        self.signals += 1
        self._has_come.set()

    async def come(self, count: int) -> None:
        """Wait until this many changes have words."""
        async with asyncio.timeout(10):
            while self.signals < count:
                self._has_come.clear()
                await self._has_come.wait()

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The log, without times."""
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]

    async def logged(self, event: str) -> dict[str, Any]:
        """Wait for a line about this event."""
        async with asyncio.timeout(10):
            while not (found := [line for line in self.lines if line["event"] == event]):
                await asyncio.sleep(0.01)
        return found[0]


@asynccontextmanager
async def running() -> AsyncIterator[Described]:
    described = Described()
    task = asyncio.create_task(described.comparisons.run())
    try:
        yield described
    finally:
        task.cancel()


def switched(body: bytes, revision: int, rules: int = 1) -> bytes:
    """The same datafile with the first rule of some flags switched off."""
    data = json.loads(body) | {"revision": str(revision)}
    for rollout in data["rollouts"][:rules]:
        rollout["experiments"][0]["variations"][0]["featureEnabled"] = False
    return json.dumps(data).encode()


async def publish(store: KeyStore, body: bytes, described: Described, old: bytes | None) -> None:
    """Publish as the loop of a key does."""
    found = datafile.parse(body, KEY)
    replaced = await store.publish(found, "webhook", 0, (), fetched=None)
    describe = store.note_change(None)
    if replaced is not None and old is not None:
        described.comparisons.add(Replacement(KEY, version(old), version(body), replaced, describe))


def version(body: bytes) -> Version:
    found = datafile.parse(body, KEY)
    return Version(found.revision, found.sha256)


def pair(directory: Path, old: bytes, new: bytes, describe: Any) -> Replacement:
    """Two datafiles in files of their own."""
    files = []
    for body in (old, new):
        path = directory / f"{version(body).sha256}.json"
        path.write_bytes(body)
        files.append(HeldFile.open(path))
    before, after = files
    assert before is not None
    assert after is not None
    return Replacement(KEY, version(old), version(new), Replaced(before, after), describe)


async def test_words_in_status_and_log(tmp_path: Path) -> None:
    """A change has its words in the status and in the log, one by which nobody decides otherwise an empty list."""
    store, bodies = KeyStore(KEY, Volume(tmp_path)), [realistic(30, 42)]
    bodies += [switched(bodies[0], 43), switched(bodies[0], 44)]
    async with running() as described:
        for old, body in zip([None, *bodies], bodies, strict=False):
            await publish(store, body, described, old)
        await described.come(2)
        line = await described.logged("datafile.changed")
    assert [change["what"] for change in store.view(State())["changes"]] == [
        None,
        ["feature_0: rule rule-0-0: off"],
        [],
    ]
    assert (line["before"], line["revision"], line["what"]) == (42, 43, ["feature_0: rule rule-0-0: off"])


async def test_a_long_change_is_short_in_status(tmp_path: Path) -> None:
    """Where much has changed, the status has at most five lines and 400 bytes, and the log has more."""
    store, body = KeyStore(KEY, Volume(tmp_path)), realistic(200, 42)
    async with running() as described:
        for old, new in ((None, body), (body, switched(body, 43, rules=30))):
            await publish(store, new, described, old)
        line = await described.logged("datafile.changed")
    what = store.view(State())["changes"][-1]["what"]
    assert len(what) <= 5
    assert len(json.dumps(what, separators=(",", ":"))) <= 410
    assert what[-1].startswith("and ")
    assert len(line["what"]) == 20


async def test_a_foreign_file_is_not_compared(tmp_path: Path) -> None:
    """A file that another process had put there says nothing about what this sidecar changed."""
    store, old, new = KeyStore(KEY, Volume(tmp_path)), minimal(42), minimal(43)
    async with running() as described:
        await publish(store, old, described, None)
        (tmp_path / f"{KEY}.json").write_bytes(old.replace(b"1234", b"9999"))
        await publish(store, new, described, old)
        (tmp_path / f"{KEY}.json").write_bytes(b"{}")
        assert await store.publish(datafile.parse(minimal(44), KEY), "poll", 0, (), fetched=None) is None
        words: list[list[str]] = []
        described.comparisons.add(pair(tmp_path, old, switched(realistic(5, 45), 45), words.append))
        await described.come(1)
    assert [change["what"] for change in store.view(State())["changes"]] == [None, None]


async def test_a_fault_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault in the words is logged, and the next change has words again."""
    words: list[list[str]] = []
    old, new = minimal(42), realistic(5, 43)
    with monkeypatch.context() as patch:
        patch.setattr("datafile_sidecar.sync.comparisons.difference", lambda *_: 1 / 0)
        async with running() as described:
            described.comparisons.add(pair(tmp_path, old, new, words.append))
            line = await described.logged("comparison.failed")
            assert line["reason"] == "ZeroDivisionError('division by zero')"
            patch.undo()
            described.comparisons.add(pair(tmp_path, old, new, words.append))
            await described.come(1)
    assert len(words) == 1


async def test_what_waits_is_bounded(tmp_path: Path) -> None:
    """Of many datafiles that change at once the oldest stay without words, so that old ones don't fill the volume."""
    described_ones: list[int] = []

    def add(number: int, old: bytes, new: bytes) -> None:
        described.comparisons.add(pair(tmp_path, old, new, lambda _: described_ones.append(number)))

    large = realistic(1500, 42)
    async with running() as described:
        for number in range(10):
            add(number, large, large + b" ")
        await described.come(2)
        for number in range(100):
            add(number, minimal(number), minimal(number + 1))
        await described.come(2 + 64)
    assert described_ones == [8, 9, *range(36, 100)]


@pytest.mark.parametrize("what", ["large_bodies", "validations"])
async def test_large_datafiles_wait_for_memory(tmp_path: Path, what: str) -> None:
    """Large datafiles are not read while the loops of the keys have much in memory, and nobody who publishes waits for them."""
    words: list[list[str]] = []
    large = realistic(1500, 42)
    async with running() as described:
        turns: Turns = getattr(described.capacity, what)
        publishing = await turns.take(Urgency.ROUTINE)
        described.comparisons.add(pair(tmp_path, large, large + b" ", words.append))
        described.comparisons.add(pair(tmp_path, minimal(42), minimal(43), words.append))
        async with asyncio.timeout(10):
            while not turns._waiting:
                await asyncio.sleep(0)
        assert words == []
        turns.end(publishing)
        async with asyncio.timeout(10):
            turns.end(await turns.take(Urgency.ROUTINE))
        await described.come(2)
    assert words == [[], []]


async def test_files_are_closed(tmp_path: Path) -> None:
    """No file stays open after it was compared, or when it is not compared at all."""
    before = len(os.listdir("/proc/self/fd"))
    store, bodies = KeyStore(KEY, Volume(tmp_path)), [minimal(revision) for revision in range(30)]
    async with running() as described:
        for old, body in zip([None, *bodies], bodies, strict=False):
            await publish(store, body, described, old)
            await store.publish(datafile.parse(body, KEY), "poll", 0, (), fetched=None)
        await described.come(29)
    assert len(os.listdir("/proc/self/fd")) <= before + 3  # the volume's lock, and what a loop may open


def test_a_hundred_keys_fit() -> None:
    """The status of 100 keys, each with ten changes of the longest words, has less than a megabyte."""
    words = summary(["→" * 130] * 9, max_lines=5, max_bytes=400)
    change = {
        "revision": 10**9,
        "trigger": "bootstrap",
        "published": "2026-01-31T12:00:00.000Z",
        "propagation_s": 0.1234,
    }
    status = {"keys": {f"key-{number}": {"changes": [change | {"what": words}] * 10} for number in range(100)}}
    assert 400_000 < len(msgspec.json.encode(status)) < 700_000
