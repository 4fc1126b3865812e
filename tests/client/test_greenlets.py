"""gevent and eventlet: a watcher in a patched process keeps no other greenlet waiting, with a sidecar and without one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.client.helpers import ROOT
from tests.client.servers import need

pytestmark = pytest.mark.system

APP = """
import sys
library, has_sidecar = sys.argv[1], sys.argv[2] == "sidecar"
if library == "gevent":
    from gevent import monkey
    monkey.patch_all()
elif library == "eventlet":
    import eventlet
    eventlet.monkey_patch()
import json, os, socket, threading, time
from datafile_client import OptimizelyWatcher
from datafile_client.testing import make_datafile, write_datafile

directory = os.environ["DATAFILE_DIR"]
write_datafile(directory, "k", make_datafile({"f": False}))
told, heard = [], []

def sidecar():
    server = socket.socket(socket.AF_UNIX)
    server.bind(directory + "/sidecar.sock")
    server.listen()
    connection, _ = server.accept()
    told.append(connection)
    connection.sendall(b'{"v":1,"sdk_key":"k","revision":1,"sha256":null}\\n')
    while data := connection.recv(4096):
        heard.extend(json.loads(line)["revision"] for line in data.splitlines())

if has_sidecar:
    threading.Thread(target=sidecar, daemon=True).start()
    time.sleep(0.1)
watcher = OptimizelyWatcher(sdk_key="k", directory=directory)
watcher.start(timeout=10)
updates = []
watcher.on_update(lambda _: updates.append(watcher.revision))
gaps, ends_at = [], time.monotonic() + 4

def other():
    last = time.perf_counter()
    while time.monotonic() < ends_at:
        time.sleep(0.01)
        now = time.perf_counter()
        gaps.append(now - last)
        last = now

thread = threading.Thread(target=other)
thread.start()
time.sleep(1)
slowest = 0.0
for revision in range(2, 12):
    write_datafile(directory, "k", make_datafile({"f": True}, revision=revision))
    began = time.perf_counter()
    if told:
        told[0].sendall(b'{"v":1,"sdk_key":"k","revision":%d,"sha256":null}\\n' % revision)
    assert watcher.wait_for_revision(revision, timeout=5)
    slowest = max(slowest, time.perf_counter() - began)
thread.join()
time.sleep(0.5)
assert updates[-1] == 11, updates
assert not has_sidecar or heard[-1] == 11, heard
watcher.stop()
print(json.dumps({"turns": len(gaps), "longest_gap_s": max(gaps), "slowest_flip_s": slowest}))
"""


@pytest.mark.parametrize("with_sidecar", ["sidecar", "alone"])
@pytest.mark.parametrize("library", ["gevent", "eventlet"])
def test_other_greenlets_get_their_turns(library: str, with_sidecar: str, directory: Path) -> None:
    """A user of greenlets serves requests while the watcher waits, and decides by each new revision."""
    need(library)
    command = [sys.executable, "-c", APP, library, with_sidecar]
    environment = {"DATAFILE_DIR": str(directory)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["turns"] > 100
    assert figures["longest_gap_s"] < 0.5
    assert "Traceback" not in done.stderr
