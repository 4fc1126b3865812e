"""ODP and CMAB keep working over swaps, forks and restarts, against servers on 127.0.0.1."""

import json
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from optimizely.helpers.sdk_settings import OptimizelySdkSettings
from optimizely.odp.odp_event_manager import OdpEventManager

from datafile_client.testing import make_datafile, write_datafile
from tests.client.conftest import MakeWatcher
from tests.client.forking import in_child, reap
from tests.client.helpers import ODP, decide, wait_until


class Odp:
    """Stands in for ODP and for the CMAB prediction service."""

    def __init__(self) -> None:
        self.events: Counter[str] = Counter()
        self.keys: set[str] = set()
        self.fetches = 0
        self.predictions = 0
        self.answering = threading.Event()
        self.answering.set()
        odp = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                odp.answering.wait(30)
                answer: Any = {}
                if self.path == "/v3/events":
                    odp.keys.add(self.headers["x-api-key"])
                    # An old SDK also tells of each user context.
                    odp.events.update(event["action"] for event in body if event["action"] != "identified")
                elif self.path == "/v3/graphql":
                    odp.fetches += 1
                    node = {"node": {"name": "seg", "state": "qualified"}}
                    answer = {"data": {"customer": {"audiences": {"edges": [node]}}}}
                else:
                    odp.predictions += 1
                    answer = {"predictions": [{"variation_id": "b"}]}
                payload = json.dumps(answer).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def odp() -> Iterator[Odp]:
    """Return a running stand-in."""
    odp = Odp()
    thread = threading.Thread(target=odp.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield odp
    odp.server.shutdown()
    thread.join()
    odp.server.server_close()


def write(directory: Path, odp: Odp, revision: int, key: str = "key", **fields: Any) -> None:
    """Publish a datafile that is integrated with this ODP."""
    integration = {"integrations": [{"key": "odp", "publicKey": key, "host": odp.url}]}
    datafile = json.loads(make_datafile({"checkout": True}, revision=revision, sdk_key="KEY1"))
    write_datafile(directory, "KEY1", json.dumps(datafile | ODP | integration | fields))


def test_odp_lives_on_over_swaps(odp: Odp, directory: Path, make_watcher: MakeWatcher) -> None:
    """A user's ODP events arrive once each, cached segments stay, and a new account in the datafile is followed."""
    write(directory, odp, 1)
    watcher = make_watcher(optimizely_options={"settings": OptimizelySdkSettings(odp_event_flush_interval=0)})
    watcher.start()
    for revision in range(1, 6):
        write(directory, odp, revision)
        assert watcher.wait_for_revision(revision)
        watcher.optimizely.send_odp_event(f"action-{revision}", {"email": "a@b.example"})
        user = watcher.optimizely.create_user_context("user")
        assert user is not None
        assert user.fetch_qualified_segments()
        assert user.is_qualified_for("seg")
        watcher.optimizely.close()
    assert odp.fetches == 1
    write(directory, odp, 6, key="another")
    assert watcher.wait_for_revision(6)
    watcher.optimizely.send_odp_event("action-6", {"email": "a@b.example"})
    watcher.stop()
    assert odp.events == {f"action-{revision}": 1 for revision in range(1, 7)}
    assert odp.keys == {"key", "another"}


def test_odp_works_again_after_a_restart(odp: Odp, directory: Path, make_watcher: MakeWatcher) -> None:
    """A user who stops and starts the watcher still sends ODP events, also with an event manager of their own."""

    class Own(OdpEventManager):
        pass

    write(directory, odp, 1)
    for manager in (None, OdpEventManager(), Own()):
        settings = OptimizelySdkSettings(odp_event_manager=manager)
        watcher = make_watcher(optimizely_options={"settings": settings})
        for action in ("one", "two"):
            watcher.start()
            watcher.optimizely.send_odp_event(action, {"email": "a@b.example"})
            watcher.stop()
    assert odp.events == {"one": 3, "two": 3}


def test_odp_in_children(odp: Odp, directory: Path, make_watcher: MakeWatcher) -> None:
    """A user's forked child sends its ODP events and none of its parent's."""
    write(directory, odp, 1)
    watcher = make_watcher(optimizely_options={"settings": OptimizelySdkSettings(odp_event_flush_interval=30)})
    watcher.start()
    watcher.optimizely.send_odp_event("parent", {"email": "a@b.example"})

    def work() -> None:
        watcher.optimizely.send_odp_event(f"child-{os.getpid()}", {"email": "a@b.example"})
        assert watcher.optimizely.create_user_context("user").fetch_qualified_segments()  # type: ignore[union-attr]

    manager: Any = watcher.optimizely.odp_manager
    with manager.segment_manager.segments_cache.lock:  # as a thread of the parent may hold it at the fork
        children = [in_child(work) for _ in range(3)]
    assert reap(children) == [0] * 3
    assert odp.events == {f"child-{child}": 1 for child in children}
    watcher.stop()
    assert odp.events["parent"] == 1
    assert len(odp.events) == 4


def test_a_stopped_watcher_starts_no_odp(odp: Odp, directory: Path, make_watcher: MakeWatcher) -> None:
    """A user who decides on after stop() revives no thread; a restart brings ODP back."""
    write(directory, odp, 1)
    watcher = make_watcher(optimizely_options={"settings": OptimizelySdkSettings(odp_event_flush_interval=0)})
    watcher.start()
    watcher.stop()
    decide(watcher.optimizely)
    watcher.optimizely.send_odp_event("late", {"email": "a@b.example"})
    assert "OdpThread" not in {thread.name for thread in threading.enumerate()}
    watcher.start()
    watcher.optimizely.send_odp_event("again", {"email": "a@b.example"})
    watcher.stop()
    assert odp.events == {"again": 1}


def test_odp_can_be_off(odp: Odp, directory: Path, make_watcher: MakeWatcher) -> None:
    """A user who disables ODP has no thread of it and sends nothing."""
    write(directory, odp, 1)
    watcher = make_watcher(optimizely_options={"settings": OptimizelySdkSettings(odp_disabled=True)})
    watcher.start()
    watcher.optimizely.send_odp_event("action", {"email": "a@b.example"})
    watcher.stop()
    assert "OdpThread" not in {thread.name for thread in threading.enumerate()}
    assert not odp.events


def test_an_odp_that_hangs_does_not_block_stop(odp: Odp, directory: Path, make_watcher: MakeWatcher) -> None:
    """A user's app ends in a bounded time although ODP does not answer."""
    odp.answering.clear()
    write(directory, odp, 1)
    options = {
        "settings": OptimizelySdkSettings(odp_event_flush_interval=0),
        "event_processor_options": {"timeout_interval": 0.5},
    }
    watcher = make_watcher(optimizely_options=options)
    watcher.start()
    watcher.optimizely.send_odp_event("action", {"email": "a@b.example"})
    started = time.monotonic()
    watcher.stop()
    assert time.monotonic() - started < 4  # 0.5 s and one for the thread; the SDK's default alone is 5 s
    odp.answering.set()
    wait_until(lambda: odp.events)


CMAB: dict[str, Any] = {
    "experiments": [
        {
            "id": "x1",
            "key": "bandit",
            "status": "Running",
            "layerId": "l",
            "audienceIds": [],
            "forcedVariations": {},
            "variations": [
                {"id": "a", "key": "A", "featureEnabled": False},
                {"id": "b", "key": "B", "featureEnabled": True},
            ],
            "trafficAllocation": [{"entityId": "a", "endOfRange": 10000}],
            "cmab": {"attributeIds": [], "trafficAllocation": 10000},
        }
    ],
    "featureFlags": [{"id": "f", "key": "learned", "rolloutId": "", "experimentIds": ["x1"], "variables": []}],
}


def test_cmab_decisions_stay_cached_over_swaps_and_forks(odp: Odp, directory: Path, make_watcher: MakeWatcher) -> None:
    """A user of a bandit is asked for once: the cache outlives the instance and goes along into a child."""
    write(directory, odp, 1, **CMAB)
    settings = OptimizelySdkSettings(cmab_prediction_endpoint=odp.url + "/predict/{}")

    class Nowhere:
        def dispatch_event(self, event: Any) -> None:
            """Let it vanish."""

    watcher = make_watcher(optimizely_options={"settings": settings, "event_dispatcher": Nowhere()})
    watcher.start()
    for revision in (1, 2, 3):
        write(directory, odp, revision, **CMAB)
        assert watcher.wait_for_revision(revision)
        assert decide(watcher.optimizely, "learned").variation_key == "B"
    assert odp.predictions == 1

    def work() -> None:
        assert decide(watcher.optimizely, "learned").variation_key == "B"
        assert decide(watcher.optimizely, "learned", "another").variation_key == "B"

    with watcher.optimizely.cmab_service.cmab_cache.lock:  # as a thread of the parent may hold it at the fork
        child = in_child(work)
    assert reap([child]) == [0]
    assert odp.predictions == 2
