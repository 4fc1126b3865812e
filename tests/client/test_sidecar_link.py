"""What each process reports to the sidecar, and what it hears."""

import hashlib
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from datafile_client import OptimizelyWatcher
from datafile_client._sidecar_link import Report, SidecarLink
from tests.client.conftest import MakeWatcher
from tests.client.helpers import publish, wait_until, watching
from tests.descriptors import open_below


@contextmanager
def listening(directory: Path) -> Iterator[socket.socket]:
    """Listen where the sidecar would."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        here = os.open(directory, os.O_PATH)
        server.bind(f"/proc/self/fd/{here}/sidecar.sock")
        os.close(here)
        server.listen()
        server.settimeout(20)
        yield server
    (directory / "sidecar.sock").unlink()


def hear(connection: socket.socket) -> dict[str, Any]:
    """Read one line."""
    connection.settimeout(20)
    with connection.makefile("rb", buffering=0) as lines:
        return dict(json.loads(lines.readline(512)))


def test_the_sidecar_receives_each_revision_and_the_end(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user can ask the sidecar which process uses which revision: a line on connecting, one after each swap, an end at stop()."""
    publish(directory, 1)
    with listening(directory) as server:
        watcher = make_watcher()
        watcher.start()
        connection, _ = server.accept()
        with connection:
            first = hear(connection)
            about = {"v": 1, "sdk_key": "KEY1", "pid": os.getpid(), "host": socket.gethostname()}
            sha256 = hashlib.sha256((directory / "KEY1.json").read_bytes()).hexdigest()[:16]
            offset = os.getpid() << 32 | int(first["id"], 16)
            assert first == {**about, "id": first["id"], "lock": offset, "revision": 1, "sha256": sha256}
            publish(directory, 2)
            assert hear(connection)["revision"] == 2
            watcher.stop()
            assert connection.recv(1) == b""


def test_a_stop_from_a_callback_closes_the_connection_for_good(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user who stops the watcher from its own callback is no longer counted as a worker, however late the callback ends."""
    publish(directory, 1)
    with listening(directory) as server:
        watcher = make_watcher()
        watcher.start()
        connection, _ = server.accept()
        with connection:
            hear(connection)

            def stop(_: object) -> None:
                watcher.stop()
                time.sleep(0.3)  # longer than the pause between two tries

            watcher.on_update(stop)
            assert connection.recv(1) == b""
            wait_until(lambda: not watching())
            server.setblocking(False)
            with pytest.raises(
                BlockingIOError
            ):  # a connection would be waiting by now, for connect() is done in one step
                server.accept()


def test_a_restarted_sidecar_receives_every_revision(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user's workers are counted by the next sidecar, too, and work as well while there is none."""
    publish(directory, 1)
    watcher = make_watcher()
    watcher.start()
    for _ in range(3):
        with listening(directory) as server:
            connection, _ = server.accept()
            with connection:
                assert hear(connection)["revision"] == 1
    assert watcher.revision == 1


def test_a_missing_sidecar_is_looked_for_ever_less(directory: Path) -> None:
    """A user's app without a sidecar tries to connect soon at first, and then every two seconds."""
    link, attempts = SidecarLink(directory), []
    for milliseconds in range(0, 20_000, 50):
        before = link._retry_at
        link.update({"KEY1": Report(1)}, now=milliseconds / 1000)
        if link._retry_at != before:
            attempts.append(milliseconds / 1000)
    assert attempts[1] <= 0.2
    assert 8 <= len(attempts) <= 14
    assert attempts[-1] - attempts[-2] == pytest.approx(2, abs=0.1)
    link.close()


def test_a_path_longer_than_a_socket_address_works(tmp_path: Path) -> None:
    """A user whose directory's name is longer than a socket's address is counted all the same."""
    directory = tmp_path / ("x" * 100) / ("y" * 100)
    directory.mkdir(parents=True)
    link = SidecarLink(directory)
    with listening(directory) as server:
        link.update({"KEY1": Report(5)}, now=0.0)
        connection, _ = server.accept()
        with connection:
            assert hear(connection)["revision"] == 5
            link.close()
            assert connection.recv(1) == b""
    assert open_below(directory) == []


def test_a_sidecar_that_accepts_no_connection_blocks_no_process(directory: Path) -> None:
    """A user's app does not wait for a sidecar that is stopped with a full backlog."""
    with listening(directory) as server:
        server.listen(0)
        links = [SidecarLink(directory) for _ in range(10)]
        started = time.monotonic()
        for link in links:
            link.update({"KEY1": Report(1)}, now=0.0)
        assert time.monotonic() - started < 5  # a blocking connect() would never return
        for link in links:
            link.close()


def test_a_forked_child_counts_from_its_first_use(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user with a preloading server sees one worker per process that decides, and each ends with its process."""
    publish(directory, 1)
    with listening(directory) as server:
        watcher = make_watcher()
        watcher.start()
        parent, _ = server.accept()
        with parent:
            own = hear(parent)
            child = os.fork()
            if not child:
                _use_and_wait(watcher)
            try:
                connection, _ = server.accept()
                with connection:
                    line = hear(connection)
                    assert (line["pid"], line["revision"]) == (child, 1)
                    assert line["id"] != own["id"]
                    watcher.stop()
                    assert parent.recv(1) == b""  # the child holds no copy of its parent's connection
            finally:
                os.kill(child, 9)
                os.waitpid(child, 0)


def test_a_child_that_uses_nothing_keeps_no_parent_alive(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user's helper process, forked by the way, neither counts as a worker nor keeps a dead one in the count."""
    publish(directory, 1)
    with listening(directory) as server:
        watcher = make_watcher()
        watcher.start()
        connection, _ = server.accept()
        with connection:
            hear(connection)
            child = os.fork()
            if not child:
                time.sleep(20)
                os._exit(1)
            try:
                watcher.stop()
                assert connection.recv(1) == b""
            finally:
                os.kill(child, 9)
                os.waitpid(child, 0)


def _use_and_wait(watcher: OptimizelyWatcher) -> None:
    try:
        assert watcher.revision == 1
        wait_until(lambda: False, 20)
    finally:
        os._exit(1)
