"""Serve a local datafile and publish every edit of it. What is printed is for a person."""

import asyncio
import json
import re
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

from datafile_sidecar.cli.simulator.events import explain_answer
from datafile_sidecar.cli.simulator.server import Simulator
from datafile_sidecar.core.datafile import InvalidDatafileError, parse

_CHECK_INTERVAL_S = 0.1


async def serve_file(
    *, datafile: Path, sdk_key: str, listen: str, webhook_url: str | None, secret: bytes | None, lag_s: float
) -> int:
    """Serve a local datafile; after each edit, raise the served revision and post a webhook. The file is never written.

    While the file is invalid or missing, the last good copy is served.

    Args:
        secret: None sends webhooks unsigned.
        lag_s: seconds between a webhook and its revision on CDN and origin.

    Returns:
        The exit status: 0 after SIGINT or SIGTERM, 2 when serving can't start.
    """
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    file = _EditedFile(datafile, sdk_key)
    try:
        served = {sdk_key: await asyncio.to_thread(file.read_edit) or b""}
        simulator = Simulator(served, listen=_address(listen), secret=secret)
        simulator.webhook_urls = [webhook_url] if webhook_url else []
        simulator.cdn_lag_s = simulator.origin_lag_s = lag_s
        async with simulator:
            _print(f"Serving revision {file.revision} of {datafile}. The sidecar's settings for it:")
            _print(f"  DATAFILE_SDK_KEYS={sdk_key} DATAFILE_URL_TEMPLATE={simulator.template}")
            effect = f"posts a webhook to {webhook_url}" if webhook_url else "posts no webhook (no --webhook-url)"
            _print(f"Each edit raises the revision and {effect}.")
            await _publish_edits(file, simulator, sdk_key, stop)
    except (OSError, InvalidDatafileError, _InvalidAddressError) as error:
        _print(f"Cannot serve {datafile} at {listen}: {error}")
        return 2
    return 0


async def _publish_edits(file: "_EditedFile", simulator: Simulator, sdk_key: str, stop: asyncio.Event) -> None:
    while not stop.is_set():
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), _CHECK_INTERVAL_S)
        try:
            body = await asyncio.to_thread(file.read_edit)
        except (OSError, InvalidDatafileError) as error:
            _print(f"revision {file.revision} is still served: {error}")
            continue
        if body is None:
            continue
        simulator.put(sdk_key, body)
        result = "no webhook posted"
        for url in simulator.webhook_urls:
            _, result = await explain_answer(url, simulator.post(sdk_key, file.revision))
        _print(f"revision {file.revision} is served; {result}")


class _EditedFile:
    """A local datafile, read when its stat has changed. The served copy has its own revisions."""

    def __init__(self, path: Path, sdk_key: str) -> None:
        self.revision = 0
        self._path = path
        self._sdk_key = sdk_key
        self._last_stat: object = ()
        self._last_text: bytes | None = None

    def read_edit(self) -> bytes | None:
        """Return the copy to serve after an edit, else None.

        Raises, once for each state of the file, InvalidDatafileError for what a sidecar would refuse and OSError for what
        can't be read.
        """
        stat = self._stat()
        if stat == self._last_stat:
            return None
        self._last_stat = stat
        text = self._path.read_bytes()
        if text == self._last_text:
            return None
        served = _json_object(text)
        if "sdkKey" in served:
            # The file may be a download of another key's datafile, which a sidecar would refuse.
            served["sdkKey"] = self._sdk_key
        own_revision = parse(json.dumps(served).encode(), self._sdk_key).revision
        self._last_text = text
        self.revision = max(self.revision + 1, own_revision)
        served["revision"] = str(self.revision)
        return json.dumps(served).encode()

    def _stat(self) -> object:
        try:
            stat = self._path.stat()
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_size, stat.st_ino


def _json_object(text: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except ValueError as error:
        raise InvalidDatafileError(f"not JSON ({error})") from error
    if not isinstance(fields, dict):
        raise InvalidDatafileError("not a JSON object")
    return fields


class _InvalidAddressError(ValueError):
    """The text is not an address to listen on."""


def _address(listen: str) -> tuple[str | None, int]:
    host, _, port = listen.rpartition(":")
    if not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65535:
        raise _InvalidAddressError("write the address as HOST:PORT, :PORT or [IPV6]:PORT")
    return host.strip("[]") or None, int(port)


def _print(line: str) -> None:
    print(line, flush=True)  # noqa: T201
