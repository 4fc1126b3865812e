"""Check upstream: fetch each key's datafile as the daemon does, but publish nothing."""

import asyncio
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

from datafile_sidecar.cli.checks.finding import Finding, Report, failed, ok, warning
from datafile_sidecar.config.credentials import Tokens
from datafile_sidecar.config.settings import Settings
from datafile_sidecar.core import datafile, url_policy
from datafile_sidecar.core.conditional import Validators
from datafile_sidecar.core.datafile import InvalidDatafileError
from datafile_sidecar.upstream import Fetched, FetchError, Upstream

UPSTREAM = "upstream"
_NETWORK = "check that this pod can connect to it: DNS, network policies, HTTPS_PROXY and NO_PROXY"
_CREDENTIALS = "check the SDK key, its access token and DATAFILE_URL_TEMPLATE"
_FIXES = {
    "client_error": _CREDENTIALS,
    "throttled": "wait; if it persists, look for other clients in this network, and raise DATAFILE_POLL_INTERVAL_S",
    "server_error": "wait; the sidecar keeps retrying, and the datafile on the volume stays in use",
    "unreachable": _NETWORK,
    "timeout": _NETWORK,
    "tls": "set SSL_CERT_FILE to the CA of the server, or of the proxy in between; check that DATAFILE_URL_TEMPLATE has the right "
    "scheme, http or https",
    "redirected": "put the final URL, which does not redirect, into DATAFILE_URL_TEMPLATE",
    "refused": _CREDENTIALS,
}
_OTHER = "check what answers at that URL, perhaps a proxy: the answer must be the datafile itself"


async def check_upstream(
    settings: Settings, environ: Mapping[str, str], tokens: Tokens, published: Mapping[str, int | None], report: Report
) -> None:
    """Fetch each key's datafile and compare it with the revisions on the volume."""
    for key in settings.sdk_keys:
        token = tokens.get(key)
        template = url_policy.default_template(settings.url_template, has_token=token is not None)
        async with Upstream(template=template, environ=environ) as upstream:
            report(await _check_key(upstream, key, token, published.get(key)))


async def _check_key(upstream: Upstream, key: str, token: str | None, published: int | None) -> Finding:
    started, url = time.monotonic(), upstream.url(key)
    try:
        answer = await upstream.fetch(url, sdk_key=key, token=token)
    except FetchError as error:
        return failed(UPSTREAM, f"{key}: {error.reason}", _FIXES.get(error.outcome, _OTHER))
    took_ms = 1000 * (time.monotonic() - started)
    assert isinstance(answer, Fetched)  # nothing else answers an unconditional request
    try:
        fetched = await asyncio.to_thread(datafile.parse, answer.body, key)
    except InvalidDatafileError as error:
        answered = f"{url_policy.without_query(url)} answered 200, but not with a datafile of this key"
        return failed(UPSTREAM, f"{key}: {answered}: {error}", _OTHER)
    answered = f"{key}: answered 200 with revision {fetched.revision}, {fetched.size / 1024:.1f} KiB"
    token_use = "without an access token" if token is None else "with an access token"
    message = f"{answered}{_age(answer.validators)}, in {took_ms:.0f} ms, {token_use}"
    if published is not None and fetched.revision < published:
        fix = "wait: CDN caches differ for a while; the older revision is accepted after DATAFILE_ROLLBACK_AFTER_S"
        return warning(UPSTREAM, f"{message}: older than revision {published} on the volume", fix)
    return ok(UPSTREAM, message)


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
