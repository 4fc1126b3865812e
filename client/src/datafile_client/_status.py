"""What a watcher knows about itself."""

import datetime
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class WatcherStatus:
    """What decides now and how fresh it is; made for health checks and logs.

    Attributes:
        sdk_key: the SDK key.
        path: the datafile that is watched.
        revision: of the datafile that decides now; None before there is one.
        sha256: of its bytes, in hexadecimal.
        source: "file", "fallback", or None before there is a datafile.
        loaded_at: when it began to decide, UTC.
        checked_at: when the sidecar last found that it is the newest, UTC; None when no status file says so.
        stale: nobody has confirmed it for `stale_after_s`. Always False without that option.
        last_error: why the newest file is not in use, or None.
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
