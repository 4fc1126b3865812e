"""Moments as text, the same wherever one is shown."""

from datetime import UTC, datetime


def rfc3339(moment: float | None) -> str | None:
    """Seconds since the epoch as RFC 3339 in UTC, to the millisecond; None for what never happened."""
    if moment is None:
        return None
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
