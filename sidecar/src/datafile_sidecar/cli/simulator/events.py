"""Optimizely's webhook from the sender's side: the body, the signed POST, and the meaning of each answer."""

import json
import os
import time
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import ClientError, ClientSession, ClientTimeout, InvalidURL, NonHttpUrlClientError

from datafile_sidecar.config import settings
from datafile_sidecar.config.credentials import Secrets
from datafile_sidecar.core.webhook import CONCERNS_NO_KEY, DATAFILE_UPDATED, SIGNATURE_HEADER, signature

_TIMEOUT = ClientTimeout(total=10)
_NOTHING_TO_DO = (
    "accepted, nothing to do: the revision is not newer, the event is for another SDK key or project, "
    "or it was already received"
)
_MAX_TEXT_BYTES = 400
_MEANINGS = {
    202: "accepted; the sidecar acts on it now",
    200: _NOTHING_TO_DO,
    204: _NOTHING_TO_DO,  # from sidecars before this version
    400: "the signature is valid, but the sidecar cannot read the event",
    401: "the sidecar has another secret, or the event was not signed",
    404: "not found: the webhook endpoint is /webhooks/optimizely on the sidecar's webhook port",
    405: "POST is not allowed: is this the sidecar's webhook port?",
    503: "the sidecar has no webhook secret (set DATAFILE_WEBHOOK_SECRETS_PATH or DATAFILE_WEBHOOK_SECRETS), or it is stopping",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """A sidecar's answer to a webhook. `status` is 0 where none came; `text` is what it says, cut to 400 bytes."""

    status: int
    text: str = ""

    @property
    def is_taken(self) -> bool:
        """Whether the webhook is delivered."""
        return 200 <= self.status < 300

    @property
    def concerns_no_key(self) -> bool:
        """Whether the sidecar serves none of the SDK keys that the webhook is about."""
        return CONCERNS_NO_KEY in self.text


def webhook_body(
    revision: int | None,
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
        revision: None leaves the field out: then the event says that there is a new datafile, and not which one.
        project_id: None leaves the field out.
        origin_url: empty for an old project, like `cdn_url`.
        environment: None leaves the field out.
    """
    data = {"revision": revision, "origin_url": origin_url, "cdn_url": cdn_url, "environment": environment}
    fields = {"project_id": project_id, "timestamp": timestamp, "event": event, "data": _without_none(data)}
    return json.dumps(_without_none(fields)).encode()


async def post(url: str, body: bytes, secret: bytes | None) -> Answer:
    """Post an event over a new connection and return the answer. Raises ClientError and TimeoutError.

    Args:
        secret: None sends the event unsigned.
    """
    headers = {"Content-Type": "application/json"}
    if secret is not None:
        headers[SIGNATURE_HEADER] = signature(body, secret)
    # A connection that is kept could be closed by the receiver just as the next webhook is sent.
    async with ClientSession(timeout=_TIMEOUT) as session, session.post(url, data=body, headers=headers) as answer:
        return Answer(answer.status, (await answer.content.read(_MAX_TEXT_BYTES)).decode(errors="replace").strip())


def signing_secret(environ: Mapping[str, str]) -> bytes | None:
    """Read the first webhook secret of the environment, None without one. Raises SettingsError and CredentialsError."""
    loaded = settings.load_partial(environ, "webhook_secrets", "webhook_secrets_path")
    secrets = Secrets(loaded.webhook_secrets_path, loaded.webhook_secrets, time.monotonic)
    return next(iter(secrets.active), None)


async def explain_answer(url: str, posting: Awaitable[Answer]) -> tuple[Answer, str]:
    """Await a POST to this URL. Returns the answer and a sentence that explains it."""
    started = time.monotonic()
    try:
        answer = await posting
    except TimeoutError:
        return Answer(0), f"webhook not delivered: {url} gave no answer within {_TIMEOUT.total:g} s"
    except (InvalidURL, NonHttpUrlClientError, UnicodeError):
        return Answer(
            0
        ), f"webhook not delivered: {url!r} is not a URL, such as http://127.0.0.1:8089/webhooks/optimizely"
    except (ClientError, OSError) as error:
        # aiohttp's own text for a refused connection repeats the address.
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else error
        return Answer(0), f"webhook not delivered: {reason}; is the sidecar running, and is {url} its webhook port?"
    took_ms = 1000 * (time.monotonic() - started)
    meaning = _MEANINGS.get(answer.status, "the sidecar never answers this: does something else listen there?")
    if answer.concerns_no_key:
        meaning = CONCERNS_NO_KEY
    return answer, f"webhook answered {answer.status} in {took_ms:.0f} ms: {meaning}"


def _without_none(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
