"""What the watchers of a directory share: a thread, a file watch, a lock, a connection to a sidecar that can take it."""

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import pytest

from datafile_client._directory_watch import DirectoryWatch
from datafile_client.testing import make_datafile, write_datafile
from datafile_sidecar.volume.directory_locks import DirectoryLocks
from tests.client.conftest import MakeWatcher
from tests.client.helpers import publish, wait_until, watching


class Sidecar:
    """A socket that takes connections as a sidecar does: by lines a key, or without a word, as older ones."""

    def __init__(self, directory: Path, *sdk_keys: str) -> None:
        self.connections: list[socket.socket] = []
        self.reports: list[dict[str, Any]] = []
        self._path = directory / "sidecar.sock"
        self._sdk_keys = sdk_keys
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._server.bind(str(self._path))
        self._server.listen()
        self._server.setblocking(False)

    def hear(self) -> list[dict[str, Any]]:
        """Take what has come; all reports until now."""
        try:
            connection, _ = self._server.accept()
        except BlockingIOError:
            pass
        else:
            self.connections.append(connection)
            connection.setblocking(False)
            for sdk_key in self._sdk_keys:
                self.tell(sdk_key, None, connection)
        for connection in self.connections:
            try:
                self.reports += map(json.loads, connection.recv(65536).splitlines())
            except (BlockingIOError, ConnectionResetError):
                continue
        return self.reports

    def last(self) -> dict[str, Any]:
        """What was said last of each key: the revision, or None where it is used no more."""
        return {one["sdk_key"]: None if one.get("ended") else one["revision"] for one in self.hear()}

    def tell(self, sdk_key: str, revision: int | None, *to: socket.socket) -> None:
        """Tell what is published."""
        line = {"v": 1, "sdk_key": sdk_key, "revision": revision, "sha256": None}
        for connection in to or self.connections:
            with suppress(BrokenPipeError):  # it may have found a better connection meanwhile
                connection.send(json.dumps(line).encode() + b"\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for one in (self._server, *self.connections):
            one.close()
        self._path.unlink()


@contextmanager
def no_file_watch(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let no change of a file be seen, from now on."""
    with monkeypatch.context() as patch:
        patch.setattr(DirectoryWatch, "collect", lambda _: set())
        yield


def publish_all(directory: Path, revision: int, *sdk_keys: str) -> None:
    """Publish the datafiles of these keys."""
    for sdk_key in sdk_keys:
        write_datafile(directory, sdk_key, make_datafile({}, revision=revision, sdk_key=sdk_key))


def test_what_the_sidecar_tells_is_loaded_at_once(
    directory: Path, make_watcher: MakeWatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user's flag is flipped by the sidecar's word, before the file system has said anything."""
    publish(directory, 1)
    with Sidecar(directory, "KEY1") as sidecar:
        watcher = make_watcher(rescan_interval_s=300)
        watcher.start()
        wait_until(lambda: sidecar.last() == {"KEY1": 1})
        with no_file_watch(monkeypatch):
            time.sleep(1.2)  # the file watch had its last look
            publish(directory, 2)
            time.sleep(0.1)
            assert watcher.revision == 1
            sidecar.tell("KEY1", 2)
            assert watcher.wait_for_revision(2, timeout=20)
        wait_until(lambda: sidecar.last() == {"KEY1": 2})


def test_a_file_that_another_hand_replaces_is_seen_beside_a_sidecar(directory: Path, make_watcher: MakeWatcher) -> None:
    """The word is not all that a user's app hears of: a file that was put there by hand is loaded, too."""
    publish(directory, 1)
    with Sidecar(directory, "KEY1") as sidecar:
        watcher = make_watcher(rescan_interval_s=300)
        watcher.start()
        wait_until(lambda: sidecar.last() == {"KEY1": 1})
        for revision in (2, 3, 4):
            publish(directory, revision)
            assert watcher.wait_for_revision(revision, timeout=20)


def test_a_hundred_watchers_share_everything(directory: Path, make_watcher: MakeWatcher) -> None:
    """An app with many SDK keys has one thread, one inotify instance, one lock and one connection for all of them."""
    keys = [f"K{number:03}" for number in range(100)]
    publish_all(directory, 1, *keys)
    with Sidecar(directory, *keys) as sidecar:
        watchers = [make_watcher(sdk_key=key) for key in keys]
        for watcher in watchers:
            watcher.start()
            sidecar.hear()
        wait_until(lambda: sidecar.last() == dict.fromkeys(keys, 1))
        assert len(watching()) == 1
        wait_until(lambda: [_is_closed(one) for one in sidecar.connections].count(False) == 1)
        wait_until(lambda: _inotify_instances() == 1)  # those of stopped watchers end a moment later
        assert len({one["id"] for one in sidecar.reports}) == 1
        locks = DirectoryLocks.open(directory)
        assert sorted(locks.held()) == [sidecar.reports[0]["lock"]]
        locks.close()
        publish_all(directory, 2, "K007")
        sidecar.tell("K007", 2)
        wait_until(lambda: sidecar.last()["K007"] == 2)
        watchers[8].stop()
        wait_until(lambda: sidecar.last()["K008"] is None)
        assert sidecar.last()["K009"] == 1
        for watcher in watchers:
            watcher.stop()
        assert watching() == []
        wait_until(lambda: all(map(_is_closed, sidecar.connections)))


def test_an_older_sidecar_has_a_connection_for_each_key(directory: Path, make_watcher: MakeWatcher) -> None:
    """It takes only one key on each, and says nothing; a watcher that stops ends its own."""
    keys = ["K1", "K2", "K3"]
    publish_all(directory, 1, *keys)
    with Sidecar(directory) as sidecar:
        watchers = [make_watcher(sdk_key=key) for key in keys]
        for watcher in watchers:
            watcher.start()
        wait_until(lambda: sidecar.last() == dict.fromkeys(keys, 1))
        assert len(sidecar.connections) == 3
        watchers[1].stop()
        wait_until(lambda: sum(map(_is_closed, sidecar.connections)) == 1)
        publish_all(directory, 2, "K3")
        assert watchers[2].wait_for_revision(2, timeout=20)
        wait_until(lambda: sidecar.last()["K3"] == 2)


def test_a_key_that_the_sidecar_does_not_serve_keeps_no_other_out(directory: Path, make_watcher: MakeWatcher) -> None:
    """It is asked for on a connection of its own, which the sidecar may close and log; the others stay connected."""
    publish_all(directory, 1, "A", "B")
    with Sidecar(directory, "B") as sidecar:
        make_watcher(sdk_key="B").start()
        wait_until(lambda: sidecar.last() == {"B": 1})
        make_watcher(sdk_key="A").start()
        wait_until(lambda: sidecar.last() == {"A": 1, "B": 1})
        assert len(sidecar.connections) == 2
        sidecar.connections.pop().close()
        wait_until(lambda: sidecar.hear() and len(sidecar.connections) == 2)
        assert not _is_closed(sidecar.connections[0])


def test_of_two_watchers_of_a_key_the_one_behind_is_reported(
    directory: Path, make_watcher: MakeWatcher, tmp_path: Path
) -> None:
    """A process uses a revision when all of it does."""
    with Sidecar(directory, "KEY1") as sidecar, ExitStack() as stopping:
        fallback = tmp_path / "fallback.json"
        fallback.write_bytes(make_datafile({}, revision=7))
        behind = make_watcher(fallback=fallback)
        behind.start(timeout=0)
        wait_until(lambda: sidecar.last() == {"KEY1": 7})
        with pytest.raises(Exception, match="no valid datafile"):
            make_watcher().start(timeout=0)
        wait_until(lambda: sidecar.last() == {"KEY1": None})
        stopping.callback(behind.stop)
        publish(directory, 8)
        wait_until(lambda: sidecar.last() == {"KEY1": 8})


def test_what_cannot_be_used_is_reported_with_its_reason(directory: Path, make_watcher: MakeWatcher) -> None:
    """Whoever is on call reads why a worker stays behind; when the next datafile is good, it is over."""
    publish(directory, 1)
    with Sidecar(directory, "KEY1") as sidecar:
        watcher = make_watcher()
        watcher.start()
        wait_until(lambda: sidecar.last() == {"KEY1": 1})
        assert "refused" not in sidecar.reports[-1]
        (directory / "KEY1.json").write_text('{"version": "99"}')
        wait_until(lambda: "refused" in sidecar.hear()[-1])
        report = sidecar.reports[-1]
        assert report["revision"] == 1
        assert len(report["refused"]["sha256"]) == 16
        assert report["refused"]["reason"]
        publish(directory, 2)
        wait_until(lambda: sidecar.last() == {"KEY1": 2})
        assert "refused" not in sidecar.reports[-1]


def test_a_process_without_a_datafile_is_there(directory: Path, make_watcher: MakeWatcher) -> None:
    """It counts as a worker that has nothing yet; that no file is there is no reason of its own."""
    with Sidecar(directory, "KEY1") as sidecar:
        with pytest.raises(Exception, match="no valid datafile"):
            make_watcher().start(timeout=0)
        wait_until(lambda: sidecar.last() == {"KEY1": None} and sidecar.reports)
        assert "ended" not in sidecar.reports[-1]
        assert "refused" not in sidecar.reports[-1]


def _inotify_instances() -> int:
    instances = 0
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            instances += os.readlink(f"/proc/self/fd/{descriptor}") == "anon_inode:inotify"
        except FileNotFoundError:
            continue
    return instances


def _is_closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(65536) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


def test_no_error_ends_the_watch(
    directory: Path, make_watcher: MakeWatcher, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A user keeps following the datafile whatever a part of it raises, and reads it once, at almost no cost."""
    publish(directory, 1)
    watcher = make_watcher()
    watcher.start()
    threads = watching()
    monkeypatch.setattr(DirectoryWatch, "wait", lambda *_: 1 / 0)
    began, used = time.monotonic(), time.process_time()
    for revision in range(2, 6):
        publish(directory, revision)
        assert watcher.wait_for_revision(revision, timeout=20)
    assert time.process_time() - used < 0.1 * (time.monotonic() - began)
    assert watching() == threads != []
    assert caplog.text.count("goes on after an error") == 1


def test_a_thread_that_has_died_is_started_again(
    directory: Path, make_watcher: MakeWatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user whose watching thread was ended by force, as by a panic of a library, has another one after a few seconds of use."""

    class PanicError(BaseException):
        """As pyo3 raises it."""

    publish(directory, 1)
    monkeypatch.setattr("datafile_client._watcher._HEARTBEAT_TIMEOUT_S", 0.5)
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    watcher = make_watcher()
    watcher.start()
    (thread,) = watching()
    with monkeypatch.context() as patched:

        def panic(*_: object) -> None:
            raise PanicError

        patched.setattr(DirectoryWatch, "wait", panic)
        wait_until(lambda: not thread.is_alive())
    publish(directory, 2)
    wait_until(lambda: watcher.revision == 2 and len(watching()) == 1)
    publish(directory, 3)
    assert watcher.wait_for_revision(3, timeout=20)
    told = list[int]()
    watcher.on_update(lambda _: told.append(watcher.revision))
    wait_until(lambda: told == [3])


def test_an_apps_tests_may_forbid_sockets(
    directory: Path, make_watcher: MakeWatcher, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A user of pytest-socket sees flips, and no line about sockets, with or without a sidecar's socket in the directory."""

    class Blocked(socket.socket):
        def __new__(cls, *_: object, **__: object) -> "Blocked":
            raise RuntimeError("A test tried to use socket.socket.")

    monkeypatch.setattr(socket, "socket", Blocked)
    publish(directory, 1)
    watcher = make_watcher()
    watcher.start()
    for revision in range(2, 5):
        publish(directory, revision)
        assert watcher.wait_for_revision(revision, timeout=20)
    (directory / "sidecar.sock").touch()
    publish(directory, 5)
    assert watcher.wait_for_revision(5, timeout=20)
    time.sleep(3)  # it tries to connect at least every 2 s
    assert caplog.text == ""


def test_a_directory_whose_name_is_no_text_is_looked_at(tmp_path: Path, make_watcher: MakeWatcher) -> None:
    """A user of a mount with a name in another encoding has flips, without events."""
    directory = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    directory.mkdir()
    publish(directory, 1)
    watcher = make_watcher(directory=directory)
    watcher.start()
    publish(directory, 2)
    assert watcher.wait_for_revision(2, timeout=20)
