"""The commands `send-webhook` and `simulate`: what they print is for a person."""

import asyncio
import json
import re
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from aiohttp import ClientSession

from datafile_sidecar.core.datafile import InvalidDatafileError, parse

from .events import TIMEOUT, in_words, post, webhook_body
from .server import Simulator

_LOOK_EVERY_S = 0.1


async def send_webhook(
    *, url: str, secret: bytes, sdk_key: str, revision: int, project_id: int | None, environment: str
) -> int:
    """Sign and post a test event for one SDK key, and say what the answer means. Exit status: 0 for 2xx, else 1.

    The event's URL has no host, so that the sidecar fetches where it is set up to, a stand-in or the real CDN. A
    `project_id` of None is left out of the event, so that it is right for any project.
    """
    body = webhook_body(
        revision,
        project_id=project_id,
        timestamp=int(time.time()),
        cdn_url=f"/datafiles/{sdk_key}.json",
        environment=environment,
    )
    async with ClientSession(timeout=TIMEOUT) as session:
        status, words = await in_words(url, post(session, url, body, secret))
    _say(words)
    return 0 if 200 <= status < 300 else 1


async def simulate(
    *, datafile: Path, sdk_key: str, listen: str, webhook_url: str | None, secret: bytes | None, lag_s: float
) -> int:
    """Serve a local datafile as Optimizely would; on each edit raise the served revision and post a signed webhook.

    The file itself is never written. While it cannot be served (half-edited, gone), the last good copy stays. CDN and
    origin show a new revision `lag_s` seconds after its webhook. Exit status: 0 at SIGINT or SIGTERM, 2 when it cannot
    begin.
    """
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    file = _EditedFile(datafile, sdk_key)
    try:
        served = {sdk_key: file.take() or b""}
        simulator = Simulator(served, listen=_address(listen), secret=secret, cdn_lag_s=lag_s, origin_lag_s=lag_s)
        async with simulator:
            _say(f"Serving revision {file.revision} of {datafile}. The sidecar's settings for it:")
            _say(f"  DATAFILE_SDK_KEYS={sdk_key} DATAFILE_URL_TEMPLATE={simulator.template}")
            _say(f"Each edit raises the revision and sends a webhook to {webhook_url or 'nobody (no --webhook-url)'}.")
            simulator.webhook_urls = [webhook_url] if webhook_url else []
            await _follow(file, simulator, sdk_key, stop)
    except (OSError, InvalidDatafileError, _NoAddressError) as error:
        _say(f"Cannot serve {datafile} at {listen}: {error}")
        return 2
    return 0


async def _follow(file: "_EditedFile", simulator: Simulator, sdk_key: str, stop: asyncio.Event) -> None:
    while not stop.is_set():
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), _LOOK_EVERY_S)
        try:
            body = file.take()
        except (OSError, InvalidDatafileError) as error:
            _say(f"revision {file.revision} stays: {error}")
            continue
        if body is not None:
            simulator.put(sdk_key, body)
            url = next(iter(simulator.webhook_urls), None)
            words = (await in_words(url, simulator.announce(sdk_key, file.revision)))[1] if url else "nobody is told"
            _say(f"revision {file.revision} is served; {words}")


class _EditedFile:
    """A person's datafile: read when its stat has changed, never written. The served copy has revisions of its own."""

    def __init__(self, path: Path, sdk_key: str) -> None:
        self.revision = 0
        self._path = path
        self._sdk_key = sdk_key
        self._seen: object = ()
        self._text: bytes | None = None

    def take(self) -> bytes | None:
        """The copy to serve after an edit, else None. Raises, once for each state of the file, when there is none.

        InvalidDatafileError for what a sidecar would refuse, OSError for what cannot be read.
        """
        seen = self._stat()
        if seen == self._seen:
            return None
        self._seen = seen
        text = self._path.read_bytes()
        if text == self._text:
            return None
        served = _fields(text)
        if "sdkKey" in served:
            # People try out what they downloaded for another key, and a sidecar refuses what says it is another key's.
            served["sdkKey"] = self._sdk_key
        own_revision = parse(json.dumps(served).encode(), self._sdk_key).revision
        self._text = text
        self.revision = max(self.revision + 1, own_revision)
        served["revision"] = str(self.revision)
        return json.dumps(served).encode()

    def _stat(self) -> object:
        try:
            stat = self._path.stat()
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_size, stat.st_ino


def _fields(text: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except ValueError as error:
        raise InvalidDatafileError(f"no JSON ({error})") from error
    if not isinstance(fields, dict):
        raise InvalidDatafileError("not a JSON object")
    return fields


class _NoAddressError(ValueError):
    """Nothing can listen there."""


def _address(listen: str) -> tuple[str | None, int]:
    host, _, port = listen.rpartition(":")
    if not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65535:
        raise _NoAddressError("an address is HOST:PORT, :PORT or [V6]:PORT")
    return host.strip("[]") or None, int(port)


def _say(words: str) -> None:
    sys.stdout.write(f"{words}\n")
    sys.stdout.flush()
