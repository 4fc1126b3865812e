"""Timestamps as text, in the same format everywhere."""

from datetime import UTC, datetime


def rfc3339(timestamp: float | None) -> str | None:
    """Format Unix seconds as RFC 3339 in UTC, to the millisecond. None stays None."""
    if timestamp is None:
        return None
    return datetime.fromtimestamp(timestamp, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
