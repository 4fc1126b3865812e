"""The CDN and the origin: one conditional, capped, timed request for a datafile, and every way it can fail in words.

Whatever the other side, a proxy, the network or the operating system does, `Upstream.fetch` returns a whole body, says
that nothing changed, or raises `FetchError`, all within its time-out. It judges the transport only: whether the body is a
good datafile is for others to say, and so are pauses and retries.
"""

from datafile_sidecar.core.fetch_error import OUTCOMES, FetchError
from datafile_sidecar.upstream.client import MAX_TIMEOUT_S, Fetched, NotModified, Upstream, Validators

__all__ = ["FetchError", "Fetched", "MAX_TIMEOUT_S", "NotModified", "OUTCOMES", "Upstream", "Validators"]
