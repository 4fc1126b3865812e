"""The real webhook port for one exchange of bytes."""

import asyncio
import io
import json
import re
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from datafile_sidecar.core.state import Trigger
from datafile_sidecar.core.webhook import DatafileUpdated
from datafile_sidecar.network.server import bind, serving
from datafile_sidecar.observe import logs
from datafile_sidecar.observe.telemetry import Telemetry
from datafile_sidecar.webhooks.receiver import Receiver
from datafile_sidecar.webhooks.stats import WebhookStats


@dataclass
class Seen:
    """What came of it: the statuses of all answers, whether a loop was woken, and what was logged as an error."""

    statuses: set[int] = field(default_factory=set)
    notified: bool = False
    errors: list[dict[str, Any]] = field(default_factory=list)


async def talk(data: bytes, secret: bytes) -> Seen:
    """Send the bytes and the end of the stream, and read until the other side has enough."""
    seen, stream = Seen(), io.StringIO()

    def notify(_: DatafileUpdated, __: Trigger) -> tuple[str, ...]:
        seen.notified = True
        return ("KEY1",)

    async def reload_secrets() -> bool:
        return False

    telemetry = Telemetry(logs.configure("info", "json", stream), time.monotonic)
    receiver = Receiver(lambda: (secret,), reload_secrets, notify, lambda *_: None, WebhookStats(time.time), telemetry)
    listener = bind("127.0.0.1", 0, "DATAFILE_WEBHOOK_LISTEN")
    port = listener.getsockname()[1]
    async with serving(receiver.app(), listener):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        answer = b""
        with suppress(OSError, TimeoutError):
            writer.write(data)
            writer.write_eof()
            async with asyncio.timeout(0.2):
                while part := await reader.read(65536):
                    answer += part
        writer.transport.abort()
    seen.statuses = {int(status) for status in re.findall(rb"HTTP/1\.[01] (\d{3}) ", answer)}
    seen.errors = [line for text in stream.getvalue().splitlines() if (line := json.loads(text))["level"] == "error"]
    return seen
