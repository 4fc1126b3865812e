"""How a failed fetch is classified and explained."""

import pytest

from datafile_sidecar.core.fetch_error import (
    OUTCOMES,
    FetchError,
    proxy_refused,
    redirect_refused,
    unexpected_status,
    url_refused,
)


@pytest.mark.parametrize(
    ("status", "retry_after_s", "outcome", "reason"),
    [
        (429, 7.0, "throttled", "cdn: answered 429 and asks for a pause of 7 s"),
        (503, 0.0, "throttled", "asks for a pause of 0 s"),
        (429, None, "client_error", "the server rejects the request"),
        (503, None, "server_error", "usually temporary"),
        (500, 7.0, "server_error", "usually temporary"),
        (599, None, "server_error", "usually temporary"),
        (600, None, "protocol_error", "not a valid response"),
        (407, None, "unreachable", "the proxy refused (407)"),
        (401, None, "client_error", "look at the SDK key"),
        (403, None, "client_error", "look at the SDK key"),
        (404, 7.0, "client_error", "look at the SDK key"),
        (400, None, "client_error", "the server rejects the request"),
        (402, None, "client_error", "the server rejects the request"),
        (499, None, "client_error", "the server rejects the request"),
        (399, None, "protocol_error", "not a valid response"),
        (304, None, "protocol_error", "to an unconditional request"),
        (206, None, "protocol_error", "not a valid response"),
    ],
)
def test_each_status_has_an_outcome_and_a_reason(
    status: int, retry_after_s: float | None, outcome: str, reason: str
) -> None:
    """The metric tells a throttled fetch from a broken server or a wrong key, and the log says what to look at."""
    error = unexpected_status("cdn", status, retry_after_s)
    assert (error.outcome, error.outcome in OUTCOMES) == (outcome, True)
    assert reason in error.reason
    assert str(error) == error.reason
    assert error.retry_after_s == (retry_after_s if outcome == "throttled" else None)


def test_a_refused_url_is_named_by_its_origin_alone() -> None:
    """The log says where a webhook or a redirect pointed, without the part of the URL that may hold a secret."""
    error = url_refused("https://evil.test:8443/x?token=hunter2")
    assert (error.outcome, error.outcome in OUTCOMES) == ("refused", True)
    assert error.reason.startswith("a URL on https://evil.test:8443 was not fetched: only https on Optimizely's hosts")
    assert "something that is not a plain http(s) URL" in url_refused("ftp://x/").reason


def test_a_refused_redirect_names_both_ends() -> None:
    """The log says from where to where a redirect was not followed, without the queries of either."""
    error = redirect_refused("https://mirror.corp/KEY1.json?sig=hunter2", "https://evil.test/x?token=hunter2")
    assert (error.outcome, error.outcome in OUTCOMES) == ("redirected", True)
    start = "https://mirror.corp/KEY1.json: the redirect to https://evil.test:443 was not followed: only https"
    assert error.reason.startswith(start)
    assert "hunter2" not in error.reason


def test_a_proxy_that_refuses_is_explained() -> None:
    """The log names the variable that holds the proxy's address and password."""
    error = proxy_refused("cdn", 407)
    assert (error.outcome, error.outcome in OUTCOMES) == ("unreachable", True)
    assert error.reason == "cdn: the proxy refused (407); check the address, user and password in HTTPS_PROXY"


def test_a_pause_is_only_there_when_asked_for() -> None:
    """A fetch that failed for another reason is retried by the sidecar's own pauses."""
    assert FetchError("timeout", "no answer").retry_after_s is None
