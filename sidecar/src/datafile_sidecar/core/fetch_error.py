"""How a fetch can fail, in words and as a metric's label. Pure: what the wire said comes in as plain values."""

from datafile_sidecar.core import sources

OUTCOMES = (
    "client_error",
    "protocol_error",
    "redirected",
    "refused",
    "server_error",
    "throttled",
    "timeout",
    "tls",
    "too_large",
    "truncated",
    "unreachable",
)

_RULE = "only https on Optimizely's hosts or DATAFILE_URL_TEMPLATE's own origin is asked, and only for this SDK key"


class FetchError(Exception):
    """No body came. `outcome` is one of OUTCOMES; `reason` says what happened, where, and what to do; it holds no secret.

    `retry_after_s` (0 to 600) is what a 429 or 503 asked for; None when there was nothing sane to go by.
    """

    def __init__(self, outcome: str, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.outcome = outcome
        self.reason = reason
        self.retry_after_s = retry_after_s


def refused(url: str, target: str) -> FetchError:
    """`target` is nothing that we ask: the URL itself, or the place that `url` redirects to."""
    place = sources.origin(target)
    where = f"{place[0]}://{place[1]}:{place[2]}" if place else "something that is no plain http(s) URL"
    if target == url:
        return FetchError("refused", f"a URL on {where} was not asked: {_RULE}")
    return FetchError("redirected", f"{sources.shown(url)}: the redirect to {where} was not followed: {_RULE}")


def unwelcome(where: str, status: int, retry_after_s: float | None) -> FetchError:
    """An answer that is neither a datafile nor "not modified"; `retry_after_s` is what its headers asked for."""
    said = f"{where}: answered {status}"
    if status in {429, 503} and retry_after_s is not None:
        return FetchError("throttled", f"{said} and asks to be left alone for {retry_after_s:.0f} s", retry_after_s)
    if status == 407:
        return proxy_refused(where, status)
    if 500 <= status <= 599:
        return FetchError("server_error", f"{said}; it should pass by itself")
    if status in {401, 403, 404}:
        return FetchError("client_error", f"{said}; look at the SDK key, its access token and DATAFILE_URL_TEMPLATE")
    if 400 <= status <= 499:
        return FetchError("client_error", f"{said}; it does not take the request")
    if status == 304:
        return FetchError("protocol_error", f"{said} to a request without conditions; a cache in between is broken")
    return FetchError("protocol_error", f"{said}, which is no answer to this request")


def proxy_refused(where: str, status: int) -> FetchError:
    """The proxy does not let the request through."""
    words = f"{where}: the proxy refused ({status}); look at the address, user and password in HTTPS_PROXY"
    return FetchError("unreachable", words)
