"""What is remembered of webhooks that were seen."""

import asyncio

from datafile_sidecar.webhooks.body_memory import REMEMBER_S, BodyMemory
from tests.sidecar.sync.virtual_time import VirtualTimeLoop


def test_it_forgets() -> None:
    """A body is known for ten minutes after it was put, and not a byte of another one is taken for it."""
    loop = VirtualTimeLoop()

    async def walk() -> None:
        memory = BodyMemory[int]()
        memory.put(b"a", 1)
        await asyncio.sleep(REMEMBER_S - 1)
        memory.put(b"b", 2)
        assert (memory.get(b"a"), memory.get(b"b"), memory.get(b"a ")) == (1, 2, None)
        await asyncio.sleep(2)
        assert (memory.get(b"a"), memory.get(b"b")) == (None, 2)

    loop.run_until_complete(walk())
    loop.close()


async def test_it_is_bounded() -> None:
    """However many bodies come, only the last thousand are kept, and the newest is always among them."""
    memory = BodyMemory[int]()
    for number in range(5000):
        memory.put(b"%d" % number, number)
    known = [number for number in range(5000) if memory.get(b"%d" % number) is not None]
    assert known == list(range(5000 - 1024, 5000))
