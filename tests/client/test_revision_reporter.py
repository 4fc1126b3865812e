"""What each process reports to the sidecar."""

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
from datafile_client._revision_reporter import RevisionReporter
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
            assert len(first.pop("id")) == 8
            assert first == {"v": 1, "sdk_key": "KEY1", "pid": os.getpid(), "host": socket.gethostname(), "revision": 1}
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
            reporter = watcher._process_state.get().reporter

            def stop(_: object) -> None:
                watcher.stop()
                reporter._retry_at = 0.0  # as if it had taken longer than the pause between two tries

            watcher.on_update(stop)
            assert connection.recv(1) == b""
            wait_until(lambda: not watching())
            server.setblocking(False)
            with pytest.raises(
                BlockingIOError
            ):  # a connection would be waiting by now, for connect() is done in one step
                server.accept()


def test_a_restarted_sidecar_receives_every_revision(
    directory: Path, make_watcher: MakeWatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user's workers are counted by the next sidecar, too, and work as well while there is none."""
    monkeypatch.setattr("datafile_client._revision_reporter._RETRY_S", 0.1)
    attempts: list[object] = []
    connect = RevisionReporter._connect

    def count(reporter: RevisionReporter) -> socket.socket:
        attempts.append(reporter)
        return connect(reporter)

    monkeypatch.setattr(RevisionReporter, "_connect", count)
    publish(directory, 1)
    watcher = make_watcher(rescan_interval_s=0.1)
    watcher.start()
    wait_until(lambda: len(attempts) > 1)
    for _ in range(2):
        with listening(directory) as server:
            connection, _ = server.accept()
            with connection:
                assert hear(connection)["revision"] == 1
    assert watcher.revision == 1


def test_a_path_longer_than_a_socket_address_works(tmp_path: Path) -> None:
    """A user whose directory's name is longer than a socket's address is counted all the same."""
    directory = tmp_path / ("x" * 100) / ("y" * 100)
    directory.mkdir(parents=True)
    reporter = RevisionReporter(directory, "KEY1")
    with listening(directory) as server:
        reporter.update(5, now=0.0)
        connection, _ = server.accept()
        with connection:
            assert hear(connection)["revision"] == 5
            reporter.close()
            assert connection.recv(1) == b""
    assert open_below(directory) == []


def test_a_sidecar_that_accepts_no_connection_blocks_no_process(directory: Path) -> None:
    """A user's app does not wait for a sidecar that is stopped with a full backlog."""
    with listening(directory) as server:
        server.listen(0)
        reporters = [RevisionReporter(directory, "KEY1") for _ in range(10)]
        started = time.monotonic()
        for reporter in reporters:
            reporter.update(1, now=0.0)
        assert time.monotonic() - started < 5  # a blocking connect() would never return
        for reporter in reporters:
            reporter.close()


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
