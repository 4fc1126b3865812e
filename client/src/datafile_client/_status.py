"""The answer of `OptimizelyWatcher.status()`."""

import datetime
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class WatcherStatus:
    """Which datafile is in use and how fresh it is, for health checks and logs.

    Attributes:
        sdk_key: the SDK key.
        path: the file that is watched.
        revision: the revision of the datafile in use; None before the first is loaded.
        sha256: the SHA-256 of its bytes, in hexadecimal; None before the first is loaded.
        source: where it came from, "file" or "fallback"; None before the first is loaded.
        loaded_at: when it was loaded (UTC); None before the first is loaded.
        checked_at: when the sidecar last found that it is the newest (UTC); None when the status file does not say.
        stale: whether it is older than `stale_after_s`, counted from `checked_at`, or else from `loaded_at`. Also True when none
            is loaded. Always False when `stale_after_s` is None.
        last_error: why the newest file is not in use; None when it is.
    """

    sdk_key: str
    path: str
    revision: int | None = None
    sha256: str | None = None
    source: str | None = None
    loaded_at: datetime.datetime | None = None
    checked_at: datetime.datetime | None = None
    stale: bool = False
    last_error: str | None = None
