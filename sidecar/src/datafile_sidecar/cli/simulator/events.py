"""Optimizely's webhook from the sender's side: the event's bytes, the signed POST, and what its answer means."""

import json
import time
from collections.abc import Awaitable
from typing import Any, TypedDict, Unpack

from aiohttp import ClientError, ClientSession, ClientTimeout, InvalidURL, NonHttpUrlClientError

from datafile_sidecar.core.webhook import DATAFILE_UPDATED, signature

TIMEOUT = ClientTimeout(total=10)
"""For one webhook, in all."""

_MEANINGS = {
    202: "the sidecar took it and fetches now",
    204: "taken, with nothing to do: not newer than the sidecar's datafile, or another SDK key's or project's",
    400: "the signature is right, but the sidecar cannot read the event",
    401: "the secret is none of the sidecar's, or the event was not signed",
    404: "no webhook endpoint there: its path is /webhooks/optimizely, on the sidecar's webhook port",
    405: "nothing there takes a POST: is this the sidecar's webhook port?",
    503: "the sidecar has no webhook secret: give it DATAFILE_WEBHOOK_SECRETS_PATH or DATAFILE_WEBHOOK_SECRETS",
}


class EventFields(TypedDict, total=False):
    """What an event says beside its revision. What is None is left out; the URLs of an old project may be empty."""

    project_id: int | str | None
    timestamp: int
    event: str
    origin_url: str
    cdn_url: str
    environment: str | None


def webhook_body(revision: int, **fields: Unpack[EventFields]) -> bytes:
    """The bytes of an event, laid out as Optimizely's page "Configure webhooks" shows it."""
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
    """Post an event, signed unless the secret is None; the answer's status. Raises `ClientError` and `TimeoutError`."""
    headers = {"Content-Type": "application/json"}
    if secret is not None:
        headers["X-Hub-Signature"] = signature(body, secret)
    async with session.post(url, data=body, headers=headers) as answer:
        return answer.status


def _without_none(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


async def in_words(url: str, posting: Awaitable[int]) -> tuple[int, str]:
    """Await a post to this URL: the answer's status, 0 where there was none, and a sentence that says what it means."""
    started = time.monotonic()
    try:
        status = await posting
    except TimeoutError:
        return 0, f"webhook not delivered: {url} gave no answer within {TIMEOUT.total:g} s"
    except (InvalidURL, NonHttpUrlClientError):
        return 0, f"webhook not delivered: {url!r} is no URL; it looks like http://127.0.0.1:8089/webhooks/optimizely"
    except (ClientError, OSError) as error:
        return 0, f"webhook not delivered: {error}; is the sidecar running, and is {url} its webhook port?"
    took_ms = 1000 * (time.monotonic() - started)
    meaning = _MEANINGS.get(status, "the sidecar gives no such answer: does something else listen there?")
    return status, f"webhook answered {status} in {took_ms:.0f} ms: {meaning}"
