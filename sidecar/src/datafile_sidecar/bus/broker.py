"""What the bus needs from a broker. Redis is one implementation, in `redis_broker.py`; the tests have one in memory."""

from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol

from datafile_sidecar.bus.fleet_store import FleetStore

ANSWER_WITHIN_S: Final = 5.0
"""A broker from which nothing comes for this long, while an answer is due, counts as lost."""
RETENTION_S: Final = 7 * 24 * 3600
"""Values expire this long after they were set."""
NOT_A_STRING: Final = b"?"
"""What `get` returns for a value of another type. It is not valid as any value of the bus, so it will be replaced."""


class Broker(Protocol):
    """One live connection to a broker.

    All methods raise `CommandRefusedError` where the broker refuses the command and the connection is still good. Any other
    exception means that the connection is lost.
    """

    @property
    def fleet(self) -> FleetStore:
        """What the pods leave about themselves."""

    async def get(self, key: str, max_bytes: int) -> bytes:
        """Return the first bytes of a value: empty where there is none, NOT_A_STRING where its type is wrong."""

    async def compare_and_set(
        self, key: str, expected: bytes, value: bytes, *, max_bytes: int, publish: tuple[str, bytes]
    ) -> bool:
        """Replace a value unless it has changed, and publish a message in the same transaction.

        Args:
            key: The value's name.
            expected: What `get(key, max_bytes)` returned. Only these first bytes are compared.
            value: The new value. It may have a type other than the old one.
            max_bytes: How much of the value to compare.
            publish: Channel and message.

        Returns:
            Whether the value was replaced.
        """

    async def set_and_delete(self, key: str, value: bytes, delete: str) -> None:
        """Set one key and delete another in one transaction, whatever their values are now."""

    async def acquire_lease(self, key: str, token: bytes, expire_s: float) -> bool:
        """Set the key to this token unless it exists, and have it expire. Return whether it was set."""

    async def release_lease(self, key: str, token: bytes) -> None:
        """Delete the key if it still has this token: after it expired, another pod may have acquired it."""

    async def try_writing(self, keys: tuple[str, str], channel: str) -> None:
        """Do once all that the methods above do, and leave nothing behind: where one of them is refused, so is this."""

    async def subscribe(self, channels: Iterable[str]) -> None:
        """Return when the broker has confirmed all subscriptions. To be called once."""

    async def next_message(self) -> tuple[str, bytes]:
        """Wait for the next message on a subscribed channel and return the channel and the message."""

    async def count_subscribers(self, channels: tuple[str, str]) -> tuple[int, int]:
        """Return how many connections have subscribed to each channel. It needs a right of its own."""

    async def ping(self) -> None:
        """Return when the broker has answered on every connection in use. `next_message` must be waiting meanwhile."""

    def time_limit(self) -> AbstractAsyncContextManager[object]:
        """Raise TimeoutError in the block when the broker is silent for ANSWER_WITHIN_S: not while a long value moves."""


Connect = Callable[[str], AbstractAsyncContextManager[Broker]]
"""Takes the URL. Connects on entry or at the first command, and closes on exit."""
