"""Optimizely's webhook from the sender's side: the body, the signed POST, and the meaning of each answer."""

import json
import os
import time
from collections.abc import Awaitable, Mapping
from typing import Any, TypedDict, Unpack

from aiohttp import ClientError, ClientSession, ClientTimeout, InvalidURL, NonHttpUrlClientError

from datafile_sidecar.config import settings
from datafile_sidecar.config.credentials import Secrets
from datafile_sidecar.core.webhook import DATAFILE_UPDATED, signature

TIMEOUT = ClientTimeout(total=10)
"""The total for one webhook."""

_MEANINGS = {
    202: "accepted; the sidecar fetches now",
    204: "accepted, nothing to do: the revision is not newer, or the event is for another SDK key or project",
    400: "the signature is valid, but the sidecar cannot read the event",
    401: "the sidecar has another secret, or the event was not signed",
    404: "not found: the webhook endpoint is /webhooks/optimizely on the sidecar's webhook port",
    405: "POST is not allowed: is this the sidecar's webhook port?",
    503: "the sidecar has no webhook secret: set DATAFILE_WEBHOOK_SECRETS_PATH or DATAFILE_WEBHOOK_SECRETS",
}


class EventFields(TypedDict, total=False):
    """The fields of an event besides its revision. None leaves a field out; the URLs of an old project may be empty."""

    project_id: int | str | None
    timestamp: int
    event: str
    origin_url: str
    cdn_url: str
    environment: str | None


def webhook_body(revision: int, **fields: Unpack[EventFields]) -> bytes:
    """Build an event as documented on Optimizely's page "Configure webhooks"."""
    data = {
        "revision": revision,
        "origin_url": fields.get("origin_url", ""),
        "cdn_url": fields.get("cdn_url", ""),
        "environment": fields.get("environment", "Production"),
    }
    event = {
        "project_id": fields.get("project_id", 1234),
        "timestamp": fields.get("timestamp", 0),
        "event": fields.get("event", DATAFILE_UPDATED),
        "data": _without_none(data),
    }
    return json.dumps(_without_none(event)).encode()


async def post(session: ClientSession, url: str, body: bytes, secret: bytes | None) -> int:
    """Post an event and return the status of the answer. Raises ClientError and TimeoutError.

    Args:
        secret: None sends the event unsigned.
    """
    headers = {"Content-Type": "application/json"}
    if secret is not None:
        headers["X-Hub-Signature"] = signature(body, secret)
    async with session.post(url, data=body, headers=headers) as answer:
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
        return 0, f"webhook not delivered: {url} gave no answer within {TIMEOUT.total:g} s"
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
