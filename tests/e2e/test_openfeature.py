"""An app that knows only OpenFeature, with two workers under gunicorn, beside a real sidecar."""

import asyncio
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from datafile_client.testing import make_datafile
from datafile_sidecar.cli.simulator import Simulator
from tests.client.helpers import ROOT, Receiver
from tests.client.servers import free_port, need, served
from tests.running import RunningSidecar

KEY, SECRET = "KEY1", "test-secret-1"
PATIENCE_S = 30
SHOP = """
import json
import os

from openfeature import api
from openfeature.evaluation_context import EvaluationContext
from openfeature.event import ProviderEvent

client = api.get_client()
heard = []
client.add_handler(ProviderEvent.PROVIDER_CONFIGURATION_CHANGED, lambda details: heard.append(details.flags_changed))


def app(environ, start_response):
    user = EvaluationContext(environ["QUERY_STRING"])
    details = client.get_boolean_details("checkout", False, user)
    client.track("bought", user)
    revision = details.flag_metadata.get("revision")
    answer = {"pid": os.getpid(), "on": details.value, "revision": revision, "heard": heard}
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(answer).encode()]
"""
SETUP = """
import contextlib
import os

from openfeature import api
from openfeature.exception import ProviderNotReadyError

from datafile_client import OptimizelyWatcher
from datafile_client.openfeature import OptimizelyProvider
from tests.client.helpers import patient_options

options = patient_options(int(os.environ["RECEIVER_PORT"]))
with contextlib.suppress(ProviderNotReadyError):
    api.set_provider_and_wait(OptimizelyProvider(OptimizelyWatcher(start_timeout_s=0, optimizely_options=options)))

from shop import app
"""
Answer = dict[str, Any]


class Shoppers:
    """Ask the shop, each time as another user, and over a connection of its own, so that every worker gets its turn."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/"
        self._numbers = itertools.count()
        self.answered: set[str] = set()

    async def ask(self) -> Answer | None:
        """Return one answer; None while nothing listens."""
        user = f"user-{next(self._numbers)}"
        connector = aiohttp.TCPConnector(force_close=True)
        async with aiohttp.ClientSession(connector=connector) as session:
            try:
                async with session.get(f"{self._url}?{user}") as response:
                    answer: Answer = await response.json()
                    self.answered.add(user)
                    return answer
            except aiohttp.ClientConnectionError:
                return None

    async def see(self, is_right: Callable[[Answer], bool], workers: int = 2) -> set[int]:
        """Ask until so many workers have answered rightly; their process ids."""
        right: set[int] = set()
        async with asyncio.timeout(PATIENCE_S):
            while len(right) < workers:
                answers = await asyncio.gather(*(self.ask() for _ in range(4)))
                right |= {answer["pid"] for answer in answers if answer and is_right(answer)}
        return right


def datafile(revision: int) -> bytes:
    """A datafile whose flag is on in odd revisions."""
    flags = {"checkout": revision % 2 == 1, "other": True}
    return make_datafile(flags, revision=revision, sdk_key=KEY, events=["bought"])


@pytest.mark.system
@pytest.mark.parametrize("options", ["", "--preload", "--preload --worker-class gevent"])
@pytest.mark.parametrize("outage", [False, True], ids=["", "outage"])
async def test_an_app_that_knows_only_openfeature(options: str, outage: bool, tmp_path: Path) -> None:
    """A user's workers decide, hear by a signed webhook which flag has changed, and send every event before they end."""
    need("gunicorn")
    need("gevent")
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "setup_flags.py").write_text(SETUP)
    port, volume, log = free_port(), tmp_path / "volume", tmp_path / "log"
    volume.mkdir()
    shoppers = Shoppers(port)
    command = ["-m", "gunicorn", "--chdir", str(tmp_path), "--bind", f"127.0.0.1:{port}", "--workers", "2"]
    command += ["--graceful-timeout", "30", *options.split(), "setup_flags:app"]
    async with Simulator({KEY: datafile(1)}, secret=SECRET.encode()) as optimizely:
        sidecar = RunningSidecar(
            volume, sdk_keys=KEY, webhook_secrets=SECRET, url_template=optimizely.template, poll_interval_s=0
        )
        with Receiver() as receiver:
            if not outage:
                async with sidecar:
                    pass
            with served(command, volume, receiver, log, PYTHONPATH=str(ROOT)) as server:
                if outage:
                    await shoppers.see(lambda answer: not answer["on"] and answer["revision"] is None)
                async with sidecar:
                    optimizely.webhook_urls = [sidecar.webhook_url]
                    workers = await shoppers.see(lambda answer: answer["on"])
                    assert await optimizely.publish(KEY, datafile(2)) == 202
                    heard = [["checkout"]]
                    assert workers == await shoppers.see(
                        lambda answer: answer["revision"] == 2 and not answer["on"] and answer["heard"] == heard
                    )
                    server.terminate()
                    assert await asyncio.to_thread(server.wait, PATIENCE_S) == 0
            if not outage:
                assert receiver.users == dict.fromkeys(shoppers.answered, 1)
    assert "Traceback" not in log.read_text()
    assert json.loads((volume / f"{KEY}.json").read_text())["revision"] == "2"
