"""A stand-in for Optimizely's event endpoint, and files as the sidecar would write them."""

import contextlib
import hashlib
import http.client
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from optimizely.decision.optimizely_decision import OptimizelyDecision
from optimizely.optimizely import Optimizely

from datafile_client import OptimizelyOptions, OptimizelyWatcher
from datafile_client.testing import make_datafile, write_datafile

ROOT = Path(__file__).parents[2]


class Receiver:
    """Takes events over HTTP on 127.0.0.1 and counts each by its user."""

    def __init__(self) -> None:
        self.users: Counter[str] = Counter()
        self.delay_s = 0.0
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                time.sleep(receiver.delay_s)
                receiver.users.update(visitor["visitor_id"] for visitor in body["visitors"])
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 128

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self) -> "Receiver":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class LocalDispatcher:
    """Sends the SDK's events to the receiver instead of to Optimizely; fit for use in any process."""

    def __init__(self, port: int) -> None:
        self.port = port

    def dispatch_event(self, event: Any) -> None:
        """Post one event and wait for the answer."""
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)) as connection:
            connection.request("POST", "/v1/events", json.dumps(event.params), {"Content-Type": "application/json"})
            connection.getresponse().read()


def patient_options(port: int) -> OptimizelyOptions:
    """Return options that send events to the receiver, and leave it enough time at the end on a machine under load."""
    return {"event_dispatcher": LocalDispatcher(port), "event_processor_options": {"timeout_interval": 50}}


def write_status(directory: Path, sdk_key: str, datafile: bytes, **fields: Any) -> None:
    """Write the status file that says that the sidecar has validated this datafile."""
    status = {"schema": 1, "sdk_key": sdk_key, "sha256": hashlib.sha256(datafile).hexdigest()} | fields
    path = directory / f"{sdk_key}.status.json"
    temporary = directory / f".{sdk_key}.status.tmp"
    temporary.write_text(json.dumps(status))
    temporary.replace(path)


def publish(directory: Path, revision: int, **flags: bool) -> bytes:
    """Publish KEY1's datafile of this revision; the flag checkout is on in odd revisions unless said otherwise."""
    datafile = make_datafile({"checkout": revision % 2 == 1} | flags, revision=revision, events=["bought"])
    write_datafile(directory, "KEY1", datafile)
    return datafile


def sized_datafile(size: int, revision: int, **fields: Any) -> bytes:
    """Make a datafile of about this many bytes, with the given top-level fields on top."""
    variables = {f"text{number}": "x" * 40 for number in range(4)}
    one = len(make_datafile({"flag-00000": {"on": True, "variables": variables}})) - len(make_datafile({}))
    flags = {f"flag-{number:05}": {"on": number % 2 == 0, "variables": variables} for number in range(size // one)}
    return json.dumps(json.loads(make_datafile(flags, revision=revision, sdk_key="KEY1")) | fields).encode()


def decide(optimizely: Optimizely, flag: str = "checkout", user: str = "user") -> OptimizelyDecision:
    """Decide one flag for one user."""
    context = optimizely.create_user_context(user)
    assert context is not None
    return context.decide(flag)


def wait_until(condition: Callable[[], object], timeout: float = 20) -> None:
    """Wait until the condition holds; fail when it does not in time."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "the condition did not hold in time"
        time.sleep(0.005)


@contextlib.contextmanager
def running(threads: list[threading.Thread]) -> Iterator[None]:
    """Run threads for the length of the block and wait for their end."""
    for thread in threads:
        thread.start()
    yield
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()


def publish_flags_with_revision(directory: Path, revision: int, count: int = 8) -> None:
    """Publish KEY1's datafile with flags that have the revision as a variable, and that send an event for each decision."""
    flags = {f"flag-{number}": {"on": True, "variables": {"revision": revision}} for number in range(count)}
    datafile = json.loads(make_datafile(flags, revision=revision)) | {"sendFlagDecisions": True}
    write_datafile(directory, "KEY1", json.dumps(datafile))


def watching() -> list[threading.Thread]:
    """Return the threads in this process that watch a directory."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("datafile /")]


ODP = {
    "integrations": [{"key": "odp", "publicKey": "key", "host": "http://127.0.0.1:9"}],
    "typedAudiences": [
        {
            "id": "1",
            "name": "segment",
            "conditions": [
                "or",
                {"match": "qualified", "name": "odp", "type": "third_party_dimension", "value": "seg"},
            ],
        }
    ],
}


def is_on(watcher: OptimizelyWatcher, flag: str = "checkout") -> bool:
    """Ask the watcher's present instance for a decision."""
    return bool(decide(watcher.optimizely, flag).enabled)


def forked(seconds: float = 20) -> int:
    """Fork a child that does nothing for so long; return its process id."""
    child = os.fork()
    if not child:
        time.sleep(seconds)
        os._exit(0)
    return child
