"""Limits how often one kind of event is logged, and counts what was left out in between.

Times are seconds of one monotonic clock, passed in.
"""


class LogThrottle:
    """When each event was logged last, and how often it has been suppressed since."""

    def __init__(self) -> None:
        self._logged: dict[str, tuple[float, int]] = {}

    def admit(self, event: str, now: float, interval_s: float) -> int | None:
        """Note that an event happened, and decide whether to log it.

        Args:
            event: What happened; each one is limited by itself.
            now: Monotonic seconds.
            interval_s: The least time between two lines.

        Returns:
            How often the event was suppressed since its last line, or None to suppress this one too.
        """
        logged_at, suppressed = self._logged.get(event, (float("-inf"), 0))
        is_too_soon = now - logged_at < interval_s
        self._logged[event] = (logged_at, suppressed + 1) if is_too_soon else (now, 0)
        return None if is_too_soon else suppressed

    def reset(self, event: str) -> None:
        """Forget an event that is over, so that it is logged at once when it comes back."""
        self._logged.pop(event, None)
