"""Upstream: one fetch of each key's datafile, as the daemon would make it, with nothing published."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from email.utils import parsedate_to_datetime

from datafile_sidecar.config.credentials import Tokens
from datafile_sidecar.config.settings import Settings
from datafile_sidecar.core import datafile, url_policy
from datafile_sidecar.core.conditional import Validators
from datafile_sidecar.core.datafile import Datafile, InvalidDatafileError
from datafile_sidecar.upstream import Fetched, FetchError, NotModified, Upstream

from .finding import Finding, failed, ok, warning

PART = "upstream"
_REACH = "see that this pod may connect there: DNS, network policies, HTTPS_PROXY and NO_PROXY"
_CREDENTIALS = "look at the SDK key, its access token and DATAFILE_URL_TEMPLATE"
_MENDS = {
    "client_error": _CREDENTIALS,
    "throttled": "wait; if it stays, see who else asks from here, and raise DATAFILE_POLL_INTERVAL_S",
    "server_error": "wait; a sidecar goes on asking, and decides by what is on the volume meanwhile",
    "unreachable": _REACH,
    "timeout": _REACH,
    "tls": "name the CA that signs for it, or for the proxy in between, in SSL_CERT_FILE; see that DATAFILE_URL_TEMPLATE "
    "says http or https as the server does",
    "redirected": "put the URL that answers by itself into DATAFILE_URL_TEMPLATE",
    "refused": _CREDENTIALS,
}
_OTHERWISE = "see what answers there, a proxy perhaps: it must be the datafile itself"


async def look_at_upstream(
    told: Settings, environ: Mapping[str, str], tokens: Tokens, held: Mapping[str, int | None]
) -> AsyncIterator[Finding]:
    """Fetch each key's datafile; `held` are the revisions on the volume."""
    for key in told.sdk_keys:
        token = tokens.get(key)
        template = url_policy.default_template(told.url_template, has_token=token is not None)
        async with Upstream(template=template, environ=environ) as upstream:
            yield await _look(upstream, key, token, held.get(key))


async def _look(upstream: Upstream, key: str, token: str | None, held: int | None) -> Finding:
    started = time.monotonic()
    try:
        answer = await upstream.fetch(upstream.url(key), sdk_key=key, token=token)
    except FetchError as error:
        return failed(PART, f"{key}: {error.reason}", _MENDS.get(error.outcome, _OTHERWISE))
    took_s = time.monotonic() - started
    if isinstance(answer, NotModified):
        return failed(PART, f"{key}: {upstream.url(key)} answered 304 to a request without conditions", _OTHERWISE)
    try:
        found = await asyncio.to_thread(datafile.parse, answer.body, key)
    except InvalidDatafileError as error:
        says = f"{key}: {url_policy.without_query(upstream.url(key))} answered 200, and not with a datafile of this key: {error}"
        return failed(PART, says, _OTHERWISE)
    return _judged(key, found, held, f"{_described(found, answer)}, in {took_s * 1000:.0f} ms, {_with(token)}")


def _judged(key: str, found: Datafile, held: int | None, facts: str) -> Finding:
    if held is not None and found.revision < held:
        return warning(
            PART,
            f"{key}: {facts}: older than revision {held}, which is on the volume",
            "wait: caches differ for a while, and upstream is believed once it has insisted for DATAFILE_ROLLBACK_AFTER_S",
        )
    return ok(PART, f"{key}: {facts}")


def _described(found: Datafile, answer: Fetched) -> str:
    return f"answered 200 with revision {found.revision}, {found.size / 1024:.1f} KiB{_age(answer.validators)}"


def _with(token: str | None) -> str:
    return "without an access token" if token is None else "with an access token"


def _age(validators: Validators | None) -> str:
    try:
        changed = parsedate_to_datetime((validators and validators.last_modified) or "").timestamp()
    except (ValueError, OverflowError):
        return ""
    minutes = max(0.0, time.time() - changed) / 60
    for unit, length in (("days", 1440), ("h", 60)):
        if minutes >= 2 * length:
            return f", changed {minutes / length:.0f} {unit} ago"
    return f", changed {minutes:.0f} min ago"
