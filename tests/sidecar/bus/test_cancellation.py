"""The end of a bus, at whatever moment it comes."""

import asyncio
import time

from datafile_sidecar.bus import Bus
from datafile_sidecar.observe import logs
from datafile_sidecar.observe.telemetry import Telemetry
from tests.sidecar.bus.memory_broker import MemoryServer


async def test_a_bus_that_is_ended_in_the_moment_in_which_it_loses_its_connection_ends() -> None:
    """The sidecar ends in order, and not by its time limit, when the broker goes at the same time."""
    for _ in range(3):
        server = MemoryServer()
        bus = Bus(
            "redis://127.0.0.1", Telemetry(logs.configure("error", "json"), time.monotonic), connect=server.connect
        )
        running = asyncio.create_task(bus.run())
        async with asyncio.timeout(10):
            while not bus.is_connected:
                await asyncio.sleep(0)
            server.disconnect()
            await asyncio.sleep(0)  # the listener has failed, and the rest of the bus does not know it yet
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        assert running.cancelled()
