"""The HTTP client for Optimizely's CDN, the origin or a mirror: one conditional request with a size and a time limit.

`Upstream.fetch` returns a complete body, or that nothing changed, or raises `FetchError`, always within its timeout. It
judges the transport only. Validation of the datafile, retries and pauses are its callers' work.
"""

from datafile_sidecar.core.fetch_error import OUTCOMES, FetchError
from datafile_sidecar.upstream.body import LARGE_BYTES
from datafile_sidecar.upstream.client import Fetched, NotModified, Upstream

__all__ = ["LARGE_BYTES", "FetchError", "Fetched", "NotModified", "OUTCOMES", "Upstream"]
