"""The response headers that upstream's answers are judged by, as pure functions of their text."""

import re
from datetime import UTC
from email.utils import parsedate_to_datetime

MAX_RETRY_AFTER_S = 600.0

_SECONDS = re.compile(r"[0-9]{1,15}", re.ASCII)
_VALIDATOR = re.compile(r"[\x20-\x7e]{1,256}", re.ASCII)


def retry_after_s(value: str | None, date: str | None, now_s: float) -> float | None:
    """Return the pause that a `Retry-After` header asks for.

    Args:
        value: The header, in seconds or as a date.
        date: The `Date` header of the same response. A `Retry-After` date is compared with it, so that a wrong clock on
            either side does no harm.
        now_s: Unix time, used in place of a missing or invalid `date`.

    Returns:
        0 to 600 seconds, or None if the header is missing or invalid.
    """
    value = (value or "").strip()
    if _SECONDS.fullmatch(value):
        return min(float(value), MAX_RETRY_AFTER_S)
    until_s, since_s = _unix_time(value), _unix_time(date or "")
    if until_s is None:
        return None
    return min(max(until_s - (now_s if since_s is None else since_s), 0.0), MAX_RETRY_AFTER_S)


def clean_validator(value: str | None) -> str | None:
    """Return an `ETag` or `Last-Modified` that can be sent back as it is, else None.

    Sending any other value back would make every later request fail.
    """
    return value if value and _VALIDATOR.fullmatch(value) else None


def _unix_time(text: str) -> float | None:
    try:
        when = parsedate_to_datetime(text)
        return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):  # OverflowError: a year or an offset of twenty digits
        return None
