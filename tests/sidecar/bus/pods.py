"""Pods that are nothing but a member of a real bus, for tests of the bus."""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from datafile_sidecar.bus import Bus, change_between
from datafile_sidecar.bus.broker import Connect
from datafile_sidecar.core import bus_record, datafile
from datafile_sidecar.core.bus_message import Change
from datafile_sidecar.core.bus_record import Head, Record
from datafile_sidecar.network.turns import Turns
from datafile_sidecar.observe import logs
from datafile_sidecar.observe.telemetry import Telemetry
from tests.datafiles import minimal

KEY = "KEY1"


class Holder:
    """The simplest member: it holds a datafile and receives newer ones."""

    def __init__(self, revision: int | None = None, body: bytes | None = None) -> None:
        self.content = body or (None if revision is None else minimal(revision))
        self.fetched = time.time()
        self.seen: list[int | None] = []
        self.missed = 0
        self.last_change: Change | None = None

    def held(self) -> Head | None:
        if self.content is None:
            return None
        parsed = datafile.parse(self.content, KEY)
        return Head(generation=0, revision=parsed.revision, sha256=parsed.sha256, fetched=self.fetched)

    async def body(self, sha256: str) -> bytes | None:
        held = self.held()
        return self.content if held and held.sha256 == sha256 else None

    def change(self, head: Head) -> Change | None:
        return self.last_change

    def fetch(self, content: bytes) -> None:
        """Replace the datafile as upstream would, and remember the change."""
        digests = [hashlib.sha256(body).hexdigest() for body in (self.content or b"", content)]
        self.last_change = change_between(self.content, digests[0], content, digests[1]) if self.content else None
        self.content, self.fetched = content, time.time()

    def wants(self, head: Head) -> bool:
        mine = self.held()
        return mine is None or bus_record.is_newer(head, mine, time.time())

    def receive(self, record: Record | None) -> None:
        self.seen.append(record.datafile.revision if record else None)
        if record is not None:
            self.content, self.fetched = record.datafile.body, record.head.fetched

    def fetch_soon(self) -> None:
        self.missed += 1


@asynccontextmanager
async def running(
    url: str,
    holder: Holder,
    *,
    connected: bool = True,
    connect: Connect | None = None,
    validations: Turns | None = None,
) -> AsyncIterator[Bus]:
    """A bus with this one member, connected."""
    with open("/dev/null", "w") as log:
        telemetry = Telemetry(logs.configure("info", "json", log), time.monotonic)
        bus = Bus(url, telemetry, connect=connect, validations=validations)
        bus.join(KEY, holder)
        task = asyncio.create_task(bus.run())
        try:
            if connected:
                await until(lambda: bus.is_connected)
            yield bus
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], object], within_s: float = 30) -> None:
    """Wait until the condition holds."""
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.005)
