"""What has come in at the webhook port, and how it was answered: for a person who asks why no webhook does anything."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from datafile_sidecar.core.times import rfc3339


class Intake:
    """Counts webhooks by how they were answered. It holds nothing that a stranger wrote."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` gives Unix seconds."""
        self._clock = clock
        self._outcomes: Counter[str] = Counter()
        self._verified_at: float | None = None
        self._rejected_at: float | None = None
        self._last_error: str | None = None

    def verified(self, outcome: str) -> None:
        """One was signed by a secret of ours."""
        self._outcomes[outcome] += 1
        self._verified_at = self._clock()
        self._last_error = None

    def rejected(self, outcome: str, reason: str) -> None:
        """One was turned away."""
        self._outcomes[outcome] += 1
        self._rejected_at = self._clock()
        self._last_error = reason

    def status(self, *, has_secrets: bool) -> dict[str, Any]:
        """How many for each outcome, when the last good and the last bad one came, and what is wrong, if the last was bad."""
        return {
            "state": "on" if has_secrets else "off",
            "verified": rfc3339(self._verified_at),
            "rejected": rfc3339(self._rejected_at),
            "outcomes": dict(self._outcomes),
            "last_error": self._last_error,
        }
