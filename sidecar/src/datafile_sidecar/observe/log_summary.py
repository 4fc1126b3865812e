"""Logs an event that others can cause at will: the first at once, then the numbers of the rest in one line now and then.

Times are seconds of one monotonic clock, passed in.
"""

from collections import Counter


class LogSummary:
    """How often an event was held back since its last line, by kind."""

    def __init__(self, every_s: float) -> None:
        """Let `every_s` seconds pass between two lines."""
        self._every_s = every_s
        self._logged_at = float("-inf")
        self._held: Counter[str] = Counter()

    def admit(self, kind: str, now: float) -> bool:
        """Note an event; return whether to log it at once. If not, it is held back."""
        if now - self._logged_at < self._every_s:
            self.hold(kind)
            return False
        self._logged_at = now
        return True

    def hold(self, kind: str) -> None:
        """Note an event that gets no line of its own."""
        self._held[kind] += 1

    def take(self, now: float) -> dict[str, int]:
        """Return the numbers that are due for a line, and forget them; nothing while it is too early."""
        if now - self._logged_at < self._every_s:
            return {}
        held, self._held = self._held, Counter()
        return dict(held)
