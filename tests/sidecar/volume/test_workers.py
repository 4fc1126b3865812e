"""`sidecar.sock`: who in the pod decides by what, told by real connections, by friends and by strangers."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import structlog

from datafile_sidecar.observe.telemetry import Telemetry
from datafile_sidecar.volume import worker_connection, workers
from datafile_sidecar.volume.workers import MAX_WORKERS, Workers
from tests.sidecar.volume.locking import locked

KEY = "KEY1"
DIGEST = "0123456789abcdef" * 4


class Pod:
    """The list under test, and what its telemetry shows."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "sidecar.sock"
        self.events: list[dict[str, Any]] = []
        logger = structlog.wrap_logger(None, processors=[self._take])
        self.telemetry = Telemetry(logger, time.monotonic)
        self.telemetry.prepare("0", [KEY])
        self.workers = Workers(directory, [KEY], self.telemetry)
        self.workers.published(KEY, 43, DIGEST, time.monotonic())

    def _take(self, _: object, __: str, event: Any) -> Any:
        self.events.append(dict(event))
        raise structlog.DropEvent

    def metric(self, name: str) -> str:
        lines = self.telemetry.exposition().decode().splitlines()
        return next(line.rpartition(" ")[2] for line in lines if line.startswith(f"datafile_sidecar_{name}"))

    def revisions(self) -> list[int | None]:
        return [one["revision"] for one in self.workers.by_key()[KEY]]


@contextlib.asynccontextmanager
async def running(pod: Pod) -> AsyncIterator[None]:
    task = asyncio.create_task(pod.workers.run())
    while (status := await pod.workers.status())["state"] != "on" and not status["last_error"]:
        await asyncio.sleep(0.005)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await asyncio.sleep(0)


@pytest.fixture
async def pod(tmp_path: Path) -> AsyncIterator[Pod]:
    pod = Pod(tmp_path)
    async with running(pod):
        yield pod


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(8):
        while not condition():
            await asyncio.sleep(0.005)


async def is_settled(pod: Pod) -> bool:
    return bool((await pod.workers.status())["settled"])


async def until_settled(pod: Pod, *, wanted: bool = True) -> None:
    async with asyncio.timeout(8):
        while await is_settled(pod) != wanted:
            await asyncio.sleep(0.005)


def line(revision: int | None = 43, **changes: Any) -> bytes:
    words = {"v": 1, "id": "0a1b2c3d", "sdk_key": KEY, "pid": 17, "host": "app-1", "revision": revision}
    return json.dumps(words | changes).encode() + b"\n"


def connect(pod: Pod) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.setblocking(False)
    connection.connect(str(pod.path))
    return connection


async def is_dropped(connection: socket.socket) -> bool:
    """Whether the sidecar hangs up, after what it has told."""
    try:
        async with asyncio.timeout(8):
            while await asyncio.get_running_loop().sock_recv(connection, 4096):
                pass
            return True
    except ConnectionResetError:
        return True


# Friends


async def test_an_open_connection_is_a_worker(pod: Pod) -> None:
    """A process is on the list from its first line until its connection ends, however silent it is in between."""
    with connect(pod) as connection:
        connection.send(line(42))
        await until(lambda: pod.revisions() == [42])
        assert (pod.metric("workers{"), pod.metric("worker_revision_min{")) == ("1.0", "42.0")
        await asyncio.sleep(0.2)
        (view,) = pod.workers.by_key()[KEY]
        assert (view["id"], view["pid"], view["host"]) == ("0a1b2c3d", 17, "app-1")
        assert view["seen"].endswith("Z")
    await until(lambda: pod.revisions() == [])
    assert (pod.metric("workers{"), pod.metric("worker_revision_min{")) == ("0.0", "NaN")


async def test_a_killed_process_is_gone_and_a_stopped_one_is_not(pod: Pod) -> None:
    """SIGSTOP leaves a worker on the list with what it last said; SIGKILL takes it off at once."""
    code = "import socket, sys, time; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.send(sys.argv[2].encode())"
    with subprocess.Popen(
        [sys.executable, "-c", f"{code}; time.sleep(60)", str(pod.path), line(42).decode()]
    ) as process:
        try:
            await until(lambda: pod.revisions() == [42])
            process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(0.2)
            assert pod.revisions() == [42]
        finally:
            process.kill()
        await until(lambda: pod.revisions() == [])


async def test_the_time_to_apply_is_measured_once_a_worker(pod: Pod) -> None:
    """`apply_seconds` grows by one for each worker that follows a publication, not by those that come, repeat or go back."""
    with connect(pod) as connection, connect(pod) as late:
        connection.send(line(42))
        await until(lambda: pod.revisions() == [42])
        pod.workers.published(KEY, 43, DIGEST, time.monotonic() - 0.05)
        for revision in (41, 43, 42, 43):
            connection.send(line(revision))
            await until(lambda wanted=revision: pod.revisions() == [wanted])  # type: ignore[misc]
        late.send(line(43, id="ffffffff"))
        await until(lambda: pod.revisions() == [43, 43])
        assert pod.metric("apply_seconds_count{") == "1.0"
        assert 0.05 <= float(pod.metric("apply_seconds_sum{")) < 5
        (event,) = [event for event in pod.events if event["event"] == "datafile.applied"]
        assert (event["revision"], event["pid"], event["host"]) == (43, 17, "app-1")


async def test_the_oldest_worker_counts(pod: Pod) -> None:
    """One process that stayed behind shows in `worker_revision_min`, one without a datafile as 0."""
    with connect(pod) as first, connect(pod) as second:
        first.send(line(43, pid=1))
        second.send(line(41, pid=2))
        await until(lambda: pod.revisions() == [43, 41])
        assert pod.metric("worker_revision_min{") == "41.0"
        second.send(line(None, pid=2))
        await until(lambda: pod.revisions() == [43, None])
        assert pod.metric("worker_revision_min{") == "0.0"


async def test_a_worker_that_connects_anew_is_one(pod: Pod) -> None:
    """A process whose old connection hangs on somewhere, in a child perhaps, is counted once, by what it says now."""
    with connect(pod) as old, connect(pod) as new:
        old.send(line(42))
        await until(lambda: pod.revisions() == [42])
        new.send(line(43))
        await until(lambda: pod.revisions() == [43])
        assert await is_dropped(old)
        assert pod.revisions() == [43]


# The socket


async def test_anybody_may_connect_and_a_dead_socket_is_replaced(tmp_path: Path) -> None:
    """The app's user is another one than ours, and what a killed sidecar left is in nobody's way; at the end nothing is left."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "sidecar.sock"))
    (tmp_path / ".sidecar.tmp").touch()
    pod = Pod(tmp_path)
    old = os.umask(0o077)
    try:
        async with running(pod):
            assert stat.S_IMODE(pod.path.stat().st_mode) == 0o666
            with connect(pod) as connection:
                connection.send(line(43))
                await until(lambda: pod.revisions() == [43])
            assert os.listdir(tmp_path) == ["sidecar.sock"]
    finally:
        os.umask(old)
    assert os.listdir(tmp_path) == []


async def test_a_long_path(tmp_path: Path) -> None:
    """A volume at a path that is too long for a socket's address has its workers all the same."""
    directory = tmp_path / ("d" * 200)
    directory.mkdir()
    pod = Pod(directory)
    async with running(pod):
        assert stat.S_ISSOCK(pod.path.stat().st_mode)
        place = os.open(directory, os.O_PATH)
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(f"/proc/self/fd/{place}/sidecar.sock")
            connection.send(line(43))
            await until(lambda: pod.revisions() == [43])
        os.close(place)


async def test_somebodys_file_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of that name that is no socket is left alone and named; the sidecar says that it hears nobody, and tries on."""
    monkeypatch.setattr(workers, "_LOOK_S", 0.02)
    (tmp_path / "sidecar.sock").write_text("mine")
    pod = Pod(tmp_path)
    async with running(pod):
        status = await pod.workers.status()
        assert (status["state"], status["settled"]) == ("off", False)
        assert "not a socket" in status["last_error"]
        await asyncio.sleep(0.1)
        assert [event["event"] for event in pod.events] == ["workers.unheard"]
        assert (tmp_path / "sidecar.sock").read_text() == "mine"
        (tmp_path / "sidecar.sock").unlink()
        while (status := await pod.workers.status())["state"] != "on":
            await asyncio.sleep(0.005)
        assert status["last_error"] is None


async def test_a_socket_that_was_removed_comes_back(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who tidies the volume up does not make the pod's workers unheard for good."""
    monkeypatch.setattr(workers, "_LOOK_S", 0.02)
    pod.path.unlink()
    await until(pod.path.exists)
    with connect(pod) as connection:
        connection.send(line(43))
        await until(lambda: pod.revisions() == [43])
    assert not await is_settled(pod)


async def test_a_new_sidecar_waits_for_its_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a while after its start, and after it turned somebody away, a sidecar does not vouch for its list."""
    monkeypatch.setattr(workers, "SETTLE_S", 0.3)
    pod = Pod(tmp_path)
    async with running(pod):
        assert not await is_settled(pod)
        await until_settled(pod)
        with connect(pod) as silent:
            await until_settled(pod, wanted=False)
            silent.send(line(43))
            await until_settled(pod)
            with connect(pod) as stranger:
                stranger.send(b"nonsense\n")
                assert await is_dropped(stranger)
            assert not await is_settled(pod)


# Strangers


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "malformed"),
        (b"x" * 513, "malformed"),
        (b"[" * 500 + b"\n", "malformed"),
        (line(43, v=2), "malformed"),
        (line(43, sdk_key="KEY2"), "unknown_key"),
        (line(43, sdk_key="__class__"), "unknown_key"),
    ],
)
async def test_what_is_not_understood_is_dropped(pod: Pod, said: bytes, reason: str) -> None:
    """Nonsense on the socket ends that connection, is counted, and never stands on the list; the friend beside it stays."""
    with connect(pod) as friend, connect(pod) as stranger:
        friend.send(line(43, id="eeeeeeee"))
        await until(lambda: pod.revisions() == [43])
        stranger.send(said)
        assert await is_dropped(stranger)
        await until(lambda: pod.revisions() == [43])
        assert float(pod.metric(f'refused_workers_total{{reason="{reason}"}}')) == 1
        assert [event for event in pod.events if event["event"] == "worker.refused"]


async def test_nobody_changes_who_they_are(pod: Pod) -> None:
    """A connection that turns into another worker is dropped: it would leave one on the list that is not there."""
    with connect(pod) as connection:
        connection.send(line(43))
        await until(lambda: pod.revisions() == [43])
        connection.send(line(43, pid=18))
        assert await is_dropped(connection)
        await until(lambda: pod.revisions() == [])


async def test_there_is_room_for_so_many(pod: Pod) -> None:
    """The 257th connection is dropped, which is said, and the list is not vouched for; when one goes, another may come."""
    with contextlib.ExitStack() as stack:
        some = [stack.enter_context(connect(pod)) for _ in range(MAX_WORKERS)]
        for number, connection in enumerate(some):
            connection.send(line(43, id=f"{number:08x}", pid=number))
        await until(lambda: len(pod.revisions()) == MAX_WORKERS)
        one_more = stack.enter_context(connect(pod))
        one_more.send(line(43, id="ffffffff"))
        assert await is_dropped(one_more)
        assert float(pod.metric('refused_workers_total{reason="too_many"}')) == 1
        assert not await is_settled(pod)
        some[0].close()
        await until(lambda: len(pod.revisions()) == MAX_WORKERS - 1)
        last = stack.enter_context(connect(pod))
        last.send(line(43, id="ffffffff"))
        await until(lambda: len(pod.revisions()) == MAX_WORKERS)


async def test_who_never_speaks_is_dropped(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections that say nothing take no place for long, and keep nobody from being vouched for."""
    monkeypatch.setattr(worker_connection, "FIRST_LINE_WITHIN_S", 0.1)
    with connect(pod) as silent:
        assert await is_dropped(silent)
    assert float(pod.metric('refused_workers_total{reason="silent"}')) == 1


async def test_a_flood_costs_little(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process gone mad, which writes lines without end, takes neither the sidecar's time nor its memory, nor its log."""
    heard: list[Any] = []

    def receive(workers: Workers, connection: Any, message: Any) -> bool:
        heard.append(message)
        return receives(workers, connection, message)

    receives = Workers.received
    monkeypatch.setattr(Workers, "received", receive)
    flood = b"".join(line(revision) for revision in (42, 43)) * 500
    with connect(pod) as connection:
        over_at = time.monotonic() + 0.5
        while time.monotonic() < over_at:
            with contextlib.suppress(BlockingIOError):
                connection.send(flood)
            await asyncio.sleep(0.001)
        await until(lambda: len(pod.revisions()) == 1)
    assert len(heard) <= 60
    assert len(pod.events) < 5


async def test_a_swap_that_is_reported_before_the_publication_is_noted_is_measured(pod: Pod) -> None:
    """On a slow disk a worker decides by a file that was renamed a moment ago, while the sidecar still syncs the directory."""
    with connect(pod) as connection, connect(pod) as behind:
        connection.send(line(42))
        behind.send(line(42, id="ffffffff"))
        await until(lambda: pod.revisions() == [42, 42])
        renamed_at = time.monotonic()
        connection.send(line(44))
        await until(lambda: set(pod.revisions()) == {42, 44})
        assert pod.metric("apply_seconds_count") == "0.0"
        pod.workers.published(KEY, 44, DIGEST, renamed_at)
        assert pod.metric("apply_seconds_count") == "1.0"
        pod.workers.published(KEY, 44, DIGEST, renamed_at)
        assert pod.metric("apply_seconds_count") == "1.0"
    applied = [event for event in pod.events if event["event"] == "datafile.applied"]
    assert [event["revision"] for event in applied] == [44]
    assert 0 <= applied[0]["apply_s"] < 8


async def test_a_swap_of_an_earlier_publication_is_not_measured_again(pod: Pod) -> None:
    """A rollback and its end publish one revision twice: a worker that is behind has not applied the second."""
    with connect(pod) as connection:
        connection.send(line(42))
        await until(lambda: pod.revisions() == [42])
        connection.send(line(43))
        await until(lambda: pod.revisions() == [43])
        assert pod.metric("apply_seconds_count") == "1.0"
        pod.workers.published(KEY, 42, DIGEST, time.monotonic())
        pod.workers.published(KEY, 43, DIGEST, time.monotonic())
        assert pod.metric("apply_seconds_count") == "1.0"


# What workers are told


async def hear(connection: socket.socket, count: int = 1) -> list[dict[str, Any]]:
    """Read so many lines."""
    data = b""
    async with asyncio.timeout(8):
        while data.count(b"\n") < count:
            data += await asyncio.get_running_loop().sock_recv(connection, 1)
    return [json.loads(one) for one in data.splitlines()]


async def test_a_worker_is_told_what_is_published(pod: Pod) -> None:
    """On connecting, and after each publication of a key that it uses: so it need not wait for the file system."""
    with connect(pod) as connection:
        about = {"v": 1, "sdk_key": KEY}
        assert await hear(connection) == [about | {"revision": 43, "sha256": DIGEST[:16]}]
        connection.send(line(43, sha256=DIGEST[:16]))
        await until(lambda: pod.revisions() == [43])
        pod.workers.published(KEY, 44, "f" * 64, time.monotonic())
        assert await hear(connection) == [about | {"revision": 44, "sha256": "f" * 16}]


async def test_what_is_published_before_the_first_report_is_told_after_it(pod: Pod) -> None:
    """A worker that connects in the moment of a publication misses nothing."""
    with connect(pod) as connection:
        await hear(connection)
        pod.workers.published(KEY, 44, "f" * 64, time.monotonic())
        connection.send(line(43, sha256=DIGEST[:16]))
        assert (await hear(connection))[0]["revision"] == 44


async def test_a_worker_that_never_reads_costs_one_line(pod: Pod) -> None:
    """It keeps nothing in the sidecar's memory, and hears of the newest when it reads at last."""
    with connect(pod) as connection:
        connection.send(line(43))
        await until(lambda: pod.revisions() == [43])
        for revision in range(44, 20_044):
            pod.workers.published(KEY, revision, DIGEST, None)
        (worker,) = pod.workers._connections
        assert worker._transport.get_write_buffer_size() < 200
        assert list(worker._untold) == [KEY]
        heard = 0
        while heard < 20_043:
            heard = (await hear(connection))[0]["revision"]


async def test_one_connection_reports_several_keys(tmp_path: Path) -> None:
    """A process that uses a hundred keys has one connection; a key that it uses no more is gone, the others stay."""
    keys = [f"KEY{number}" for number in range(100)]
    pod = Pod(tmp_path)
    pod.workers = Workers(tmp_path, keys, pod.telemetry)
    async with running(pod):
        with connect(pod) as connection:
            assert {one["sdk_key"] for one in await hear(connection, 100)} == set(keys)
            connection.send(b"".join(line(7, sdk_key=key) for key in keys))
            await until(lambda: all(len(found) == 1 for found in pod.workers.by_key().values()))
            connection.send(line(None, sdk_key="KEY7", ended=True) + line(8, sdk_key="KEY8"))
            await until(lambda: pod.workers.by_key()["KEY7"] == [])
            await until(lambda: pod.workers.by_key()["KEY8"][0]["revision"] == 8)
            assert len(pod.workers.by_key()["KEY9"]) == 1
        await until(lambda: not any(pod.workers.by_key().values()))


async def test_a_worker_that_cannot_use_what_is_published_says_why(pod: Pod) -> None:
    """Whoever is on call sees the worker, the revision and the reason, until it can; hostile text stays text."""
    with connect(pod) as connection:
        reason = "unsupported \u001b[31m version"
        connection.send(line(42, refused={"reason": reason, "sha256": DIGEST[:16]}))
        await until(lambda: pod.revisions() == [42])
        assert pod.workers.by_key()[KEY][0]["refused"] == {"revision": 43, "reason": reason}
        assert pod.metric("workers_refusing") == "1.0"
        (event,) = [event for event in pod.events if event["event"] == "worker.datafile_refused"]
        assert (event["pid"], event["reason"]) == (17, reason)
        connection.send(line(42, refused={"reason": "older", "sha256": "f" * 16}))
        await until(lambda: pod.workers.by_key()[KEY][0]["refused"] == {"revision": None, "reason": "older"})
        connection.send(line(43))
        await until(lambda: pod.revisions() == [43])
        assert pod.workers.by_key()[KEY][0]["refused"] is None
        assert pod.metric("workers_refusing") == "0.0"


# Who there is, by the kernel


async def presence(pod: Pod) -> tuple[str, list[dict[str, Any]]]:
    status = await pod.workers.status()
    return status["presence"], status["unreported"]


async def test_a_process_with_a_lock_and_no_connection_is_named(pod: Pod, tmp_path: Path) -> None:
    """It lives and has not reported: stopped since before this sidecar began, perhaps. When it reports or ends, it is not."""
    offset = 17 << 32 | 0x0A1B2C3D
    with locked(tmp_path, (offset, 1)):
        assert await presence(pod) == ("locks", [{"id": "0a1b2c3d", "pid": 17}])
        with connect(pod) as connection:
            connection.send(line(43, lock=offset))
            await until(lambda: pod.revisions() == [43])
            assert await presence(pod) == ("locks", [])
        await until(lambda: pod.revisions() == [])
        assert await presence(pod) == ("locks", [{"id": "0a1b2c3d", "pid": 17}])
    assert await presence(pod) == ("locks", [])


async def test_a_worker_without_a_lock_is_a_connection(pod: Pod, tmp_path: Path) -> None:
    """An older client, or one that lies about its lock, is counted as ever, and the status says so."""
    with connect(pod) as old:
        old.send(line(43))
        await until(lambda: pod.revisions() == [43])
        assert await presence(pod) == ("connections", [])
    with connect(pod) as liar:
        liar.send(line(43, lock=5))
        await until(lambda: pod.revisions() == [43])
        assert await presence(pod) == ("connections", [])


async def test_what_may_hide_a_worker_makes_presence_unknown(pod: Pod, tmp_path: Path) -> None:
    """Two processes on one byte, or a lock of many bytes: the list may be too short, and says so."""
    with locked(tmp_path, (5, 1)), connect(pod) as one, connect(pod) as two:
        one.send(line(43, lock=5))
        two.send(line(43, lock=5, id="ffffffff"))
        await until(lambda: pod.revisions() == [43, 43])
        assert await presence(pod) == ("unknown", [])
        assert "the same lock" in (await pod.workers.status())["last_error"]
    with locked(tmp_path, (0, 0)):
        assert await presence(pod) == ("unknown", [])
        assert "everything" in (await pod.workers.status())["last_error"]
    await until(lambda: pod.revisions() == [])
    assert await presence(pod) == ("locks", [])


async def test_nobody_changes_their_lock(pod: Pod, tmp_path: Path) -> None:
    """A connection that names another lock would leave one out."""
    with connect(pod) as connection:
        connection.send(line(43, lock=5))
        await until(lambda: pod.revisions() == [43])
        connection.send(line(43, lock=6))
        assert await is_dropped(connection)


async def test_a_new_sidecar_need_not_wait_for_those_whose_locks_it_sees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where all workers of the one before held a lock, the next vouches at once; a worker without one brings the wait back."""
    monkeypatch.setattr(workers, "_LOOK_S", 0.02)
    note = tmp_path / ".datafile-sidecar.workers"
    with locked(tmp_path, (5, 1)), monkeypatch.context() as settling:
        settling.setattr(workers, "SETTLE_S", 0.1)
        async with running(pod := Pod(tmp_path)):
            with connect(pod) as connection:
                connection.send(line(43, lock=5))
                await until(note.exists)
    async with running(pod := Pod(tmp_path)):
        assert await is_settled(pod)
        with locked(tmp_path, (5, 1)):
            assert await presence(pod) == ("locks", [{"id": "00000005", "pid": 0}])
        with connect(pod) as old:
            old.send(line(43))
            await until(lambda: not note.exists())
    async with running(pod := Pod(tmp_path)):
        assert not await is_settled(pod)


async def test_a_replaced_directory_brings_the_wait_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks and note are of the old directory, and say nothing about those that use the new one."""
    monkeypatch.setattr(workers, "_LOOK_S", 0.02)
    monkeypatch.setattr(workers, "SETTLE_S", 0.1)
    directory = tmp_path / "volume"
    directory.mkdir()
    async with running(pod := Pod(directory)):
        await until((directory / ".datafile-sidecar.workers").exists)
        monkeypatch.setattr(workers, "SETTLE_S", 60)
        directory.rename(tmp_path / "away")
        directory.mkdir()
        await until(pod.path.exists)
        while (status := await pod.workers.status())["state"] != "on":
            await asyncio.sleep(0.005)
        assert not status["settled"]
