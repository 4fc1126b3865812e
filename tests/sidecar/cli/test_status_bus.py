"""`datafile-sidecar status` with the bus alone: what pods left on a real Redis, read from anywhere."""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis.asyncio

from datafile_sidecar.bus import fleet_reader
from datafile_sidecar.bus.errors import BrokerError
from datafile_sidecar.bus.names import fleet_names
from datafile_sidecar.cli.main import main
from datafile_sidecar.cli.status_bus import BusStatusClient
from datafile_sidecar.core import fleet_record
from datafile_sidecar.core.fleet_record import FleetRecord, WorkerGroup
from datafile_sidecar.core.fleet_roster import Excuses
from datafile_sidecar.core.wait_target import WaitTarget
from tests.broker import Broker, needs_redis

pytestmark = needs_redis

KEY = "KEY1"
NAMES = fleet_names(KEY)
FINE = FleetRecord(
    revision=43, sha256="a" * 64, applied=1_769_860_800.0, workers=(WorkerGroup("0a1b2c3d", 17, "app", 4, 43),)
)
OLD = FleetRecord(revision=42, sha256="b" * 64, workers=(WorkerGroup("0a1b2c3d", 17, "app", 4, 42),))
OPERATIONS = Path(__file__).parents[3] / "docs" / "operations.md"
WAIT = ("--wait-for-revision", "43", "--sdk-key", KEY, "--timeout", "0")


class Pods:
    """Pods that left these records on a broker, by their names there."""

    def __init__(self, broker: Broker) -> None:
        self.command = broker.command
        self.url = broker.url
        self.client: redis.asyncio.Redis = broker.client()

    async def leave(self, record: FleetRecord | bytes, *names: str, ago_s: float = 0.5, changes: int = 1) -> None:
        seconds, microseconds = await self.client.time()
        if isinstance(record, FleetRecord):
            record = fleet_record.encode(
                msgspec.structs.replace(record, at=int(seconds) + int(microseconds) / 1e6 - ago_s)
            )
        for batch in (names[start : start + 1000] for start in range(0, len(names), 1000)):
            await self.client.hset(NAMES.pods, mapping=dict.fromkeys(batch, record))
        await self.client.hset(NAMES.pods, "since", f"{int(seconds) - 100} x")
        await self.client.incrby(NAMES.changes, changes)

    async def names(self) -> set[bytes]:
        return {bytes(name) for name in await self.client.hkeys(NAMES.pods) if isinstance(name, bytes)} - {b"since"}

    async def reads(self) -> int:
        """How often the whole fleet was read since the last call."""
        stats = await self.client.info("commandstats")
        await self.client.config_resetstat()
        return int(stats.get("cmdstat_hlen", {}).get("calls", 0))


@pytest.fixture
async def pods() -> AsyncIterator[Pods]:
    async with Broker() as broker:
        yield Pods(broker)


async def status(pods: Pods, *arguments: str, **environ: str) -> int:
    """Run the command with nothing but the URL of the bus."""

    def run() -> int:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("signal.signal", lambda *_: None)  # which only a main thread may set
            return main(["status", *arguments], {"DATAFILE_BUS_URL": pods.url, **environ})

    return await asyncio.to_thread(run)


async def test_it_needs_the_bus_alone(pods: Pods, capsys: pytest.CaptureFixture[str]) -> None:
    """From a laptop: 0 when every pod that is registered has the revision, else 1 and who has not."""
    await pods.leave(FINE, "checkout-1/a", "checkout-2/b")
    assert await status(pods, *WAIT) == 0
    assert "all confirmed at revision 43 or newer (sidecars: 2, workers: 8)" in capsys.readouterr().out
    await pods.leave(OLD, "checkout-3/c")
    assert await status(pods, *WAIT) == 1
    out = capsys.readouterr().out
    assert out.startswith("KEY1: 3 pods, 12 workers\n  at revision 43: 2 pods\n  at revision 42: 1 pod\n  lagging: 1, ")
    assert "checkout-3 (c): has revision 42 on its volume" in out
    assert await status(pods, "--sdk-key", KEY) == 0
    assert await status(pods, DATAFILE_SDK_KEYS=KEY) == 0
    assert await status(pods, *WAIT, "--expect", "4") == 1


async def test_what_it_has_to_be_told(pods: Pods, capsys: pytest.CaptureFixture[str]) -> None:
    """Without an SDK key, or with options that have no meaning, the error says what to add."""
    for arguments, words in (
        ((), "--sdk-key or DATAFILE_SDK_KEYS"),
        (("--url", "127.0.0.1:1", "--forget", "x"), "set DATAFILE_BUS_URL"),
        (("--url", "127.0.0.1:1", "--excuse-after", "60"), "set DATAFILE_BUS_URL"),
        (("--sdk-key", KEY, "--receipt", "x"), "--wait-for-revision"),
    ):
        assert await status(pods, *arguments) == 2
        assert words in capsys.readouterr().err


async def test_a_silent_pod_needs_an_excuse(pods: Pods, capsys: pytest.CaptureFixture[str]) -> None:
    """A yes without it names it; `--forget` also removes it from the bus, once it was silent for ten minutes."""
    await pods.leave(FINE, "checkout-1/a")
    await pods.leave(FINE, "gone-1/b", ago_s=60)
    await pods.leave(FINE, "gone-2/c", ago_s=700)
    assert await status(pods, *WAIT) == 1
    assert "gone-1 (b): it has not been heard for 6" in capsys.readouterr().out
    assert await status(pods, *WAIT, "--excuse-after", "300") == 1
    capsys.readouterr()
    assert await status(pods, *WAIT, "--excuse-after", "50", "--json") == 0
    assert json.loads(capsys.readouterr().out)["excused"] == ["gone-1 (b)", "gone-2 (c)"]
    assert await pods.names() == {b"checkout-1/a", b"gone-1/b", b"gone-2/c"}
    assert await status(pods, *WAIT, "--forget", "gone-*") == 0
    out = capsys.readouterr().out
    assert "excused, and not known:\n  gone-1 (b)\n  gone-2 (c)\n" in out
    assert "not heard: 0, excused: 2" in out
    assert await pods.names() == {b"checkout-1/a", b"gone-1/b"}


async def test_the_receipt(pods: Pods, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It says what was proven, about whom and when, that it is not signed, and it is there only after a yes."""
    receipt = tmp_path / "receipt.json"
    receipt.write_text("of an earlier run")
    await pods.leave(OLD, "checkout-1/a")
    assert await status(pods, *WAIT, "--receipt", str(receipt)) == 1
    assert not receipt.exists()
    await pods.leave(FINE, "checkout-1/a")
    await pods.leave(msgspec.structs.replace(FINE, applied=1_769_860_801.5), "checkout-2/b")
    await pods.leave(OLD, "gone-1/c", ago_s=60)
    assert await status(pods, *WAIT, "--receipt", str(receipt), "--excuse-after", "30") == 0
    proven = json.loads(receipt.read_text())
    assert abs(time.time() - _unix_s(proven.pop("known"))) < 60
    assert proven == {
        "version": 1,
        "signed": False,
        "note": "Not signed: whoever can write this file, to the bus, or in the sidecars' place can forge it.",
        "source": f"the bus at {pods.url}",
        "sdk_key": KEY,
        "wanted_revision": 43,
        "upstream_revision": None,
        "workers_required": True,
        "datafiles": [{"revision": 43, "sha256": "a" * 64, "pods": 2}],
        "pods": 2,
        "workers": 8,
        "first_applied": "2026-01-31T12:00:00.000Z",
        "last_applied": "2026-01-31T12:00:01.500Z",
        "excused": ["gone-1 (c)"],
    }
    assert list(tmp_path.iterdir()) == [receipt]
    capsys.readouterr()
    assert await status(pods, *WAIT, "--receipt", str(tmp_path / "none" / "receipt.json"), "--excuse-after", "30") == 1
    assert "can't be written: No such file or directory" in capsys.readouterr().err


async def test_it_reads_again_when_something_moved(pods: Pods) -> None:
    """A `status` that waits reads the whole fleet when enough has changed, at most once a second, and not at rest."""
    await pods.leave(OLD, "checkout-1/a", "checkout-2/b")
    await pods.reads()
    waiting = asyncio.create_task(BusStatusClient(pods.url, [KEY]).wait(WaitTarget(KEY, 43), 30))
    await asyncio.sleep(3)
    assert await pods.reads() == 1
    for _ in range(20):
        await pods.leave(OLD, "checkout-1/a")
        await asyncio.sleep(0.1)
    assert 1 <= await pods.reads() <= 3
    await pods.leave(FINE, "checkout-1/a", "checkout-2/b", changes=2)
    async with asyncio.timeout(2):
        answers, target = await waiting
    assert target.lagging(answers) == []


async def test_time_alone_is_looked_at(pods: Pods) -> None:
    """A pod that goes silent while the command waits is a no; one that is heard again is a yes, though nothing else changed."""
    await pods.leave(FINE, "checkout-1/a", ago_s=100)
    waiting = asyncio.create_task(BusStatusClient(pods.url, [KEY]).wait(WaitTarget(KEY, 43), 30))
    await asyncio.sleep(0.5)
    await pods.leave(FINE, "checkout-1/a", changes=0)
    async with asyncio.timeout(4):
        answers, target = await waiting
    assert target.lagging(answers) == []


async def test_more_listeners_than_pods_is_no_yes(pods: Pods, capsys: pytest.CaptureFixture[str]) -> None:
    """A sidecar of an older version hears of datafiles, and does not say what it has."""
    await pods.leave(FINE, "checkout-1/a")
    async with pods.client.pubsub() as first, pods.client.pubsub() as second:
        await first.subscribe(NAMES.channel)
        assert await status(pods, *WAIT) == 0
        await second.subscribe(NAMES.channel)
        assert await status(pods, *WAIT) == 1
        assert "2 connections listen there, and 1 pods are registered" in capsys.readouterr().out


async def test_a_user_that_may_only_read(pods: Pods) -> None:
    """The rights that the documents give to `status` are enough for it, and not to forge a yes."""
    [rule] = [line for line in OPERATIONS.read_text().splitlines() if line.startswith("user status on ")]
    await pods.leave(FINE, "checkout-1/a")
    await pods.command("ACL", "SETUSER", *rule.replace(">PASSWORD", ">hunter2").split()[1:])
    pods.url = pods.url.replace("://", "://status:hunter2@") + "/0"
    assert await status(pods, *WAIT) == 0
    async with fleet_reader.fleet_reader(pods.url) as reader:
        with pytest.raises(BrokerError, match="no permissions"):
            await reader.forget(KEY, [b"checkout-1/a"])


async def test_a_broker_that_fails_is_no_yes(pods: Pods, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong password, a user without permissions, a value of another type: each is named, and no password is shown."""
    await pods.leave(FINE, "checkout-1/a")
    await pods.command("ACL", "SETUSER", "old", "on", ">hunter2", "~*", "&*", "+@all", "-hscan")
    own = pods.url
    for user, words in (("old:hunter2", "hscan"), ("old:hunter3", "WRONGPASS")):
        pods.url = own.replace("://", f"://{user}@")
        assert await status(pods, *WAIT) == 1
        out = capsys.readouterr().out
        assert words in out
        assert "hunter" not in out
    pods.url = own
    await pods.client.set(NAMES.pods, "x")
    assert await status(pods, *WAIT) == 1
    assert "WRONGTYPE" in capsys.readouterr().out


async def test_a_broker_that_restarts_is_waited_for() -> None:
    """The command goes on when the broker is back, and says yes only by what is there then."""
    async with Broker() as broker:
        pods = Pods(broker)
        await pods.leave(OLD, "checkout-1/a")
        waiting = asyncio.create_task(BusStatusClient(broker.url, [KEY]).wait(WaitTarget(KEY, 43), 30))
        await asyncio.sleep(0.5)
        await broker.kill()
        await asyncio.sleep(1)
        assert not waiting.done()
        await broker.start()
        await pods.leave(FINE, "checkout-1/a")
        async with asyncio.timeout(10):
            answers, target = await waiting
        assert target.lagging(answers) == []


async def test_it_ends_in_time(pods: Pods) -> None:
    """`--timeout` holds whatever hangs; the last that is known is shown."""
    await pods.leave(OLD, "checkout-1/a")
    started = time.monotonic()
    answers, target = await BusStatusClient(pods.url, [KEY]).wait(WaitTarget(KEY, 43), 1.5)
    assert 1 < time.monotonic() - started < 5
    assert "has revision 42" in target.lagging(answers)[0]
    answers, _ = await BusStatusClient("redis://127.0.0.1:1", [KEY]).wait(WaitTarget(KEY, 43), 1)
    assert answers[0].problem


async def test_too_much_is_not_read(pods: Pods, monkeypatch: pytest.MonkeyPatch) -> None:
    """More pods, or more bytes, than any fleet has: the command says so, and holds no more than that."""
    await pods.leave(FINE, *(f"pod-{number}/a" for number in range(300)))
    monkeypatch.setattr(fleet_reader, "MAX_PODS", 299)
    assert "300 pods are registered" in str((await BusStatusClient(pods.url, [KEY]).ask(5))[0].problem)
    monkeypatch.setattr(fleet_reader, "MAX_PODS", 400)
    monkeypatch.setattr(fleet_reader, "MAX_BYTES", 10_000)
    assert "or 10000 bytes" in str((await BusStatusClient(pods.url, [KEY]).ask(5))[0].problem)
    await pods.leave(b"x" * 50_000_000, "huge/a")
    monkeypatch.undo()
    answers = await BusStatusClient(pods.url, [KEY]).ask(20)
    assert "longer than 1024 bytes" in next(str(one.problem) for one in answers if "huge" in one.endpoint)


async def test_ten_thousand_pods(pods: Pods, capsys: pytest.CaptureFixture[str]) -> None:
    """The summary comes first, then the first fifty that lag; JSON has all. The event loop is not held up meanwhile."""
    await pods.leave(FINE, *(f"checkout-{number}/{number:016x}" for number in range(9812)))
    await pods.leave(OLD, *(f"checkout-{number}/{number:016x}" for number in range(9812, 10_000)))
    stalls = [0.0]

    async def watch() -> None:
        while True:
            started = time.monotonic()
            await asyncio.sleep(0.001)
            stalls.append(time.monotonic() - started)

    async with fleet_reader.fleet_reader(pods.url) as reader:
        watching = asyncio.create_task(watch())
        started = time.monotonic()
        assert len((await reader.read(KEY)).roster.records) == 10_000
        took_s = time.monotonic() - started
        watching.cancel()
    assert max(stalls) < took_s / 5
    assert await status(pods, *WAIT) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[:4] == [
        "KEY1: 10,000 pods, 40,000 workers",
        "  at revision 43: 9,812 pods",
        "  at revision 42: 188 pods",
        "  lagging: 188, not heard: 0",
    ]
    assert len(lines) < 120
    assert "  … and 326 more: --json has all" in lines  # a pod and its worker are two sentences
    assert all(re.match(r"checkout-9[89]\d\d ", line) for line in lines[6:56])
    assert await status(pods, *WAIT, "--json") == 1
    shown: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert (len(shown["sidecars"]), len(shown["lagging"])) == (10_000, 376)
    assert shown["summary"][0]["confirmed"] == 9812


def test_excuses_have_names() -> None:
    """A pattern stands for any text, and upper and lower case differ."""
    assert Excuses(("checkout-*",)).covers("checkout-1", 0)
    assert not Excuses(("Checkout-*",)).covers("checkout-1", 0)


def _unix_s(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
