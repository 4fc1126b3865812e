"""Optimizely's webhook from the sender's side: the body, the signed POST, and the meaning of each answer."""

import json
import os
import time
from collections.abc import Awaitable, Mapping
from typing import Any

from aiohttp import ClientError, ClientSession, ClientTimeout, InvalidURL, NonHttpUrlClientError

from datafile_sidecar.config import settings
from datafile_sidecar.config.credentials import Secrets
from datafile_sidecar.core.webhook import DATAFILE_UPDATED, SIGNATURE_HEADER, signature

_TIMEOUT = ClientTimeout(total=10)
_NOTHING_TO_DO = (
    "accepted, nothing to do: the revision is not newer, the event is for another SDK key or project, "
    "or it was already received"
)
_MEANINGS = {
    202: "accepted; the sidecar fetches now",
    200: _NOTHING_TO_DO,
    204: _NOTHING_TO_DO,  # from sidecars before this version
    400: "the signature is valid, but the sidecar cannot read the event",
    401: "the sidecar has another secret, or the event was not signed",
    404: "not found: the webhook endpoint is /webhooks/optimizely on the sidecar's webhook port",
    405: "POST is not allowed: is this the sidecar's webhook port?",
    503: "the sidecar has no webhook secret (set DATAFILE_WEBHOOK_SECRETS_PATH or DATAFILE_WEBHOOK_SECRETS), or it is stopping",
}


def webhook_body(
    revision: int,
    *,
    project_id: int | str | None = 1234,
    timestamp: int = 0,
    event: str = DATAFILE_UPDATED,
    origin_url: str = "",
    cdn_url: str = "",
    environment: str | None = "Production",
) -> bytes:
    """Build an event as documented on Optimizely's page "Configure webhooks".

    Args:
        project_id: None leaves the field out.
        origin_url: empty for an old project, like `cdn_url`.
        environment: None leaves the field out.
    """
    data = {"revision": revision, "origin_url": origin_url, "cdn_url": cdn_url, "environment": environment}
    fields = {"project_id": project_id, "timestamp": timestamp, "event": event, "data": _without_none(data)}
    return json.dumps(_without_none(fields)).encode()


async def post(url: str, body: bytes, secret: bytes | None) -> int:
    """Post an event over a new connection and return the status of the answer. Raises ClientError and TimeoutError.

    Args:
        secret: None sends the event unsigned.
    """
    headers = {"Content-Type": "application/json"}
    if secret is not None:
        headers[SIGNATURE_HEADER] = signature(body, secret)
    # A connection that is kept could be closed by the receiver just as the next webhook is sent.
    async with ClientSession(timeout=_TIMEOUT) as session, session.post(url, data=body, headers=headers) as answer:
        return answer.status


def signing_secret(environ: Mapping[str, str]) -> bytes | None:
    """Read the first webhook secret of the environment, None without one. Raises SettingsError and CredentialsError."""
    loaded = settings.load_partial(environ, "webhook_secrets", "webhook_secrets_path")
    secrets = Secrets(loaded.webhook_secrets_path, loaded.webhook_secrets, time.monotonic)
    return next(iter(secrets.active), None)


async def explain_answer(url: str, posting: Awaitable[int]) -> tuple[int, str]:
    """Await a POST to this URL. Returns the status, 0 without an answer, and a sentence that explains it."""
    started = time.monotonic()
    try:
        status = await posting
    except TimeoutError:
        return 0, f"webhook not delivered: {url} gave no answer within {_TIMEOUT.total:g} s"
    except (InvalidURL, NonHttpUrlClientError, UnicodeError):
        return 0, f"webhook not delivered: {url!r} is not a URL, such as http://127.0.0.1:8089/webhooks/optimizely"
    except (ClientError, OSError) as error:
        # aiohttp's own text for a refused connection repeats the address.
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else error
        return 0, f"webhook not delivered: {reason}; is the sidecar running, and is {url} its webhook port?"
    took_ms = 1000 * (time.monotonic() - started)
    meaning = _MEANINGS.get(status, "the sidecar never answers this: does something else listen there?")
    return status, f"webhook answered {status} in {took_ms:.0f} ms: {meaning}"


def _without_none(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
