"""How a time is written."""

import pytest

from datafile_sidecar.core.times import rfc3339


@pytest.mark.parametrize(
    ("timestamp", "text"),
    [(None, None), (0.0, "1970-01-01T00:00:00.000Z"), (1_700_000_000.1239, "2023-11-14T22:13:20.123Z")],
)
def test_times_are_rfc3339_in_utc(timestamp: float | None, text: str | None) -> None:
    """Every time that a user reads has the same form: UTC, to the millisecond."""
    assert rfc3339(timestamp) == text
