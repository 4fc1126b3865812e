"""Remembers webhooks by the digest of their body, so that a repeated one does no work again."""

import asyncio
import hashlib
from typing import Final, Generic, TypeVar

REMEMBER_S: Final = 600.0
_MAX_BODIES = 1024

T = TypeVar("T")


class BodyMemory(Generic[T]):
    """A value for each of the last 1,024 bodies, for 10 minutes. The bodies themselves are not kept."""

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[float, T]] = {}

    def get(self, body: bytes) -> T | None:
        """Return what is remembered of a body, None where nothing is."""
        remembered_at, value = self._known.get(_digest(body), (float("-inf"), None))
        return value if _now() - remembered_at < REMEMBER_S else None

    def put(self, body: bytes, value: T) -> None:
        """Remember a value from now on. At the limit the oldest body is forgotten."""
        digest, now = _digest(body), _now()
        self._known.pop(digest, None)
        self._known[digest] = now, value
        for oldest in list(self._known):
            if len(self._known) <= _MAX_BODIES and now - self._known[oldest][0] < REMEMBER_S:
                break
            del self._known[oldest]


def _digest(body: bytes) -> bytes:
    return hashlib.sha256(body).digest()


def _now() -> float:
    return asyncio.get_running_loop().time()
