"""Serve a local datafile and publish every change of it: edits, and flags that are switched. What is printed is for a person."""

import asyncio
import re
import signal
from contextlib import suppress
from pathlib import Path

from datafile_sidecar.cli.simulator.control import control_routes
from datafile_sidecar.cli.simulator.events import explain_answer
from datafile_sidecar.cli.simulator.served_file import ServedFile
from datafile_sidecar.cli.simulator.server import Simulator
from datafile_sidecar.core.datafile import InvalidDatafileError

_CHECK_INTERVAL_S = 0.1


async def serve_file(
    *,
    datafile: Path,
    sdk_key: str,
    listen: str,
    webhook_url: str | None,
    secret: bytes | None,
    lag_s: float,
    state: Path | None = None,
) -> int:
    """Serve a local datafile; after each change, raise the served revision and post a webhook. The file is never written.

    While the file is invalid or missing, the last good copy is served.

    Args:
        secret: None sends webhooks unsigned.
        lag_s: seconds between a webhook and its revision on CDN and origin.
        state: a file that keeps the served copy, so that revisions go on after a restart.

    Returns:
        The exit status: 0 after SIGINT or SIGTERM, 2 when serving can't start.
    """
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    file = ServedFile(datafile, sdk_key, state)
    try:
        served = {sdk_key: await asyncio.to_thread(file.start)}
        publisher = _Publisher(file, sdk_key)
        routes = control_routes(publisher.flip)
        publisher.simulator = simulator = Simulator(served, listen=_address(listen), secret=secret, routes=routes)
        simulator.webhook_urls = [webhook_url] if webhook_url else []
        simulator.cdn_lag_s = simulator.origin_lag_s = lag_s
        async with simulator:
            _print(f"Serving revision {file.revision} of {datafile}. The sidecar's settings for it:")
            _print(f"  DATAFILE_SDK_KEYS={sdk_key} DATAFILE_URL_TEMPLATE={simulator.template}")
            effect = f"posts a webhook to {webhook_url}" if webhook_url else "posts no webhook (no --webhook-url)"
            _print(f"Each edit raises the revision and {effect}.")
            await publisher.publish_edits(stop)
    except (OSError, InvalidDatafileError, _InvalidAddressError) as error:
        _print(f"Cannot serve {datafile} at {listen}: {error}")
        return 2
    return 0


class _Publisher:
    """Publishes one change at a time."""

    simulator: Simulator

    def __init__(self, file: ServedFile, sdk_key: str) -> None:
        self._file = file
        self._sdk_key = sdk_key
        self._turn = asyncio.Lock()

    async def publish_edits(self, stop: asyncio.Event) -> None:
        """Look at the local datafile again and again, until the event is set."""
        while not stop.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), _CHECK_INTERVAL_S)
            try:
                async with self._turn:
                    if body := await asyncio.to_thread(self._file.read_edit):
                        await self._publish(body)
            except (OSError, InvalidDatafileError) as error:
                _print(f"revision {self._file.revision} is still served: {error}")

    async def flip(self, flag: str, on: bool) -> tuple[bool, str]:
        """Switch a flag and publish it. Returns whether webhooks were taken, and a sentence. Raises FlagError."""
        async with self._turn:
            body = self._file.switch(flag, on=on)
            delivered, words = await self._publish(body)
            return delivered, f"{flag} is {'on' if on else 'off'}: {words}"

    async def _publish(self, body: bytes) -> tuple[bool, str]:
        self.simulator.put(self._sdk_key, body)
        delivered, result = True, "no webhook posted"
        for url in self.simulator.webhook_urls:
            answer, result = await explain_answer(url, self.simulator.post(self._sdk_key, self._file.revision))
            delivered = delivered and answer.is_taken
        words = f"revision {self._file.revision} is served; {result}"
        _print(words)
        return delivered, words


class _InvalidAddressError(ValueError):
    """The text is not an address to listen on."""


def _address(listen: str) -> tuple[str | None, int]:
    host, _, port = listen.rpartition(":")
    if not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65535:
        raise _InvalidAddressError("write the address as HOST:PORT, :PORT or [IPV6]:PORT")
    return host.strip("[]") or None, int(port)


def _print(line: str) -> None:
    print(line, flush=True)  # noqa: T201
