"""Counts webhooks by how they were answered, for a person who asks why a webhook had no effect."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from datafile_sidecar.core.times import rfc3339


class WebhookStats:
    """Counts the outcomes of webhooks. It keeps nothing that came from outside."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` gives Unix seconds."""
        self._clock = clock
        self._outcomes: Counter[str] = Counter()
        self._verified_at: float | None = None
        self._rejected_at: float | None = None
        self._last_error: str | None = None

    def verified(self, outcome: str) -> None:
        """Count a webhook with a valid signature."""
        self._outcomes[outcome] += 1
        self._verified_at = self._clock()
        self._last_error = None

    def rejected(self, outcome: str, reason: str) -> None:
        """Count a webhook that was rejected."""
        self._outcomes[outcome] += 1
        self._rejected_at = self._clock()
        self._last_error = reason

    def status(self, *, has_secrets: bool) -> dict[str, Any]:
        """Return the webhooks' part of `/status`; `last_error` is None once a valid one has come."""
        return {
            "state": "on" if has_secrets else "off",
            "verified": rfc3339(self._verified_at),
            "rejected": rfc3339(self._rejected_at),
            "outcomes": dict(self._outcomes),
            "last_error": self._last_error,
        }
