"""Counts webhooks by how they were answered, for a person who asks why a webhook had no effect."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from datafile_sidecar.core.times import rfc3339
from datafile_sidecar.core.webhook import DatafileUpdated


class WebhookStats:
    """Counts the outcomes of webhooks. It keeps nothing that came from outside."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` gives Unix seconds."""
        self._clock = clock
        self._outcomes: Counter[str] = Counter()
        self._last_at: dict[str, float] = {}
        self._last_error: str | None = None
        self._delay_s: float | None = None

    def count(self, outcome: str, error: str | None = None) -> None:
        """Count a webhook. `error` is the reason if it was rejected, None if its signature is valid."""
        self._outcomes[outcome] += 1
        self._last_at["verified" if error is None else "rejected"] = self._clock()
        self._last_error = error

    def time(self, event: DatafileUpdated) -> float | None:
        """Note how long after the change was saved its event came, and return it; None where that is not known."""
        self._delay_s = event.delay_s(self._clock())
        return self._delay_s

    def status(self, *, has_secrets: bool) -> dict[str, Any]:
        """Return the webhooks' part of `/status`; `last_error` is None once a valid one has come."""
        return {
            "state": "on" if has_secrets else "off",
            "verified": rfc3339(self._last_at.get("verified")),
            "rejected": rfc3339(self._last_at.get("rejected")),
            "delay_s": None if self._delay_s is None else round(self._delay_s, 1),
            "outcomes": dict(self._outcomes),
            "last_error": self._last_error,
        }
