"""How a fetch can fail: one error with an outcome, which is a metric label, and a reason for people."""

from datafile_sidecar.core import url_policy

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

_RULE = "only https on Optimizely's hosts or DATAFILE_URL_TEMPLATE's own origin is allowed, and only for this SDK key"


class FetchError(Exception):
    """A fetch that returned no datafile.

    `outcome` is one of OUTCOMES. `reason` says what happened, where, and what to do; it holds no secret. `retry_after_s`
    (0 to 600) is the pause that a 429 or 503 asked for, or None.
    """

    def __init__(self, outcome: str, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.outcome = outcome
        self.reason = reason
        self.retry_after_s = retry_after_s


def url_refused(url: str) -> FetchError:
    """Return the error for a URL that the policy does not allow."""
    return FetchError("refused", f"a URL on {_origin(url)} was not fetched: {_RULE}")


def redirect_refused(url: str, target: str) -> FetchError:
    """Return the error for a redirect from `url` to a `target` that the policy does not allow."""
    shown = url_policy.without_query(url)
    return FetchError("redirected", f"{shown}: the redirect to {_origin(target)} was not followed: {_RULE}")


def unexpected_status(target: str, status: int, retry_after_s: float | None) -> FetchError:
    """Return the error for a response that is neither a datafile nor "not modified".

    Args:
        target: Where the request went, for people.
        status: The HTTP status.
        retry_after_s: The pause that the response asked for.
    """
    answered = f"{target}: answered {status}"
    if status in {429, 503} and retry_after_s is not None:
        return FetchError("throttled", f"{answered} and asks for a pause of {retry_after_s:.0f} s", retry_after_s)
    if status == 407:
        return proxy_refused(target, status)
    if 500 <= status <= 599:
        return FetchError("server_error", f"{answered}, a fault of the server that is usually temporary")
    if status in {401, 403, 404}:
        advice = "look at the SDK key, its access token and DATAFILE_URL_TEMPLATE"
        return FetchError("client_error", f"{answered}; {advice}")
    if 400 <= status <= 499:
        return FetchError("client_error", f"{answered}; the server rejects the request")
    if status == 304:
        return FetchError("protocol_error", f"{answered} to an unconditional request; a cache in between is broken")
    return FetchError("protocol_error", f"{answered}, which is not a valid response to this request")


def proxy_refused(target: str, status: int) -> FetchError:
    """Return the error for a proxy that does not let the request through."""
    advice = "check the address, user and password in HTTPS_PROXY"
    return FetchError("unreachable", f"{target}: the proxy refused ({status}); {advice}")


def _origin(url: str) -> str:
    origin = url_policy.origin(url)
    return f"{origin[0]}://{origin[1]}:{origin[2]}" if origin else "something that is not a plain http(s) URL"
