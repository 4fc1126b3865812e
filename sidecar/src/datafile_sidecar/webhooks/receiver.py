"""The webhook port: checks size, signature, JSON and event, then answers. The work that a webhook causes comes after the answer."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from aiohttp import web
from aiohttp.http import HttpProcessingError

from datafile_sidecar.core import webhook
from datafile_sidecar.core.state import Trigger
from datafile_sidecar.core.webhook import (
    INSTANCE_HEADER,
    PATH,
    RELAYED_HEADER,
    SIGNATURE_HEADER,
    DatafileUpdated,
    MalformedWebhookError,
)
from datafile_sidecar.network.http import read_body
from datafile_sidecar.observe.telemetry import Telemetry
from datafile_sidecar.webhooks.body_memory import BodyMemory
from datafile_sidecar.webhooks.stats import WebhookStats

MAX_BODY_BYTES: Final = 64 * 1024
BODY_TIMEOUT_S: Final = 5.0
SIGNATURE: Final = SIGNATURE_HEADER.lower().encode()


async def _not_ending(_: bytes, __: tuple[str, ...]) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Receiver:
    """The webhook endpoint.

    Args:
        secrets: Returns the secrets that are valid now.
        reload_secrets: Reads the secrets again after a bad signature; returns whether they have changed.
        notify: Passes an event on to the keys that it concerns; returns the keys for which it changes something, None where it
            concerns none of ours.
        relay: Queues a webhook, its body, its signature and its event, for the other sidecars.
        stats: Counts for `/status`.
        telemetry: Logs and counts.
        is_kept: Returns whether a webhook, its body and the keys that are fetched because of it, outlives the end of the process;
            waits for that only when the end is near.
        instance: The id of this process. A peer that relays a webhook may know several addresses of it, and counts it once.
    """

    secrets: Callable[[], tuple[bytes, ...]]
    reload_secrets: Callable[[], Awaitable[bool]]
    notify: Callable[[DatafileUpdated, Trigger], tuple[str, ...] | None]
    relay: Callable[[bytes, bytes, DatafileUpdated], None]
    stats: WebhookStats
    telemetry: Telemetry
    is_kept: Callable[[bytes, tuple[str, ...]], Awaitable[bool]] = _not_ending
    instance: str = ""
    _received: BodyMemory[bool] = field(default_factory=BodyMemory[bool], init=False)

    def app(self) -> web.Application:
        """Create an application with this endpoint.

        Serve it with `auto_decompress=False`, since the signature covers the bytes as they came over the wire.
        """
        app = web.Application()
        app.router.add_post(PATH, self.receive)
        app.on_response_prepare.extend([_close_afterwards, self._name_instance])
        return app

    async def receive(self, request: web.Request) -> web.Response:
        """Answer one webhook: 202 when a key is fetched because of it, 200 when it changes nothing here.

        `docs/contract.md` describes the errors: 400, 401, 408, 413 and 503.
        """
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                body = await read_body(request, MAX_BODY_BYTES)
        except TimeoutError:
            return self._reject("too_slow", 408, "the body did not arrive in time")
        except (OSError, HttpProcessingError, RuntimeError):
            # aiohttp raises RuntimeError when the connection was lost before reading began.
            return self._reject("broken_off", 400, "the connection broke before the whole body arrived")
        if body is None:
            return self._reject("too_large", 413, f"a webhook has at most {MAX_BODY_BYTES} bytes")
        if not self.secrets():
            reason = "no webhook secret is configured here; set DATAFILE_WEBHOOK_SECRETS_PATH"
            return self._reject("no_secret", 503, reason)
        if (signature := await self._signature(request, body)) is None:
            return self._reject("unverified", 401, "the signature is missing or wrong")
        try:
            event = webhook.parse(body)
        except MalformedWebhookError as problem:
            return self._reject("malformed", 400, str(problem))
        if not isinstance(event, DatafileUpdated):
            return self._ignore("it is not a datafile update")
        is_relayed = RELAYED_HEADER in request.headers
        if not is_relayed:
            self.relay(body, signature, event)
        if self._received.get(body):
            return self._ignore("it was already received", is_repeat=True)
        return await self._handle(body, event, Trigger.PEER if is_relayed else Trigger.WEBHOOK)

    async def _name_instance(self, request: web.Request, response: web.StreamResponse) -> None:
        if RELAYED_HEADER in request.headers and response.status < 300:
            response.headers[INSTANCE_HEADER] = self.instance

    async def _signature(self, request: web.Request, body: bytes) -> bytes | None:
        """Return the header that signs the body, None without a valid one."""
        headers = [value for name, value in request.raw_headers if name.lower() == SIGNATURE]
        header = headers[0] if len(headers) == 1 else None
        is_valid = webhook.verify(body, header, self.secrets())
        if not is_valid and header is not None and await self.reload_secrets():
            is_valid = webhook.verify(body, header, self.secrets())
        return header if is_valid else None

    async def _handle(self, body: bytes, event: DatafileUpdated, trigger: Trigger) -> web.Response:
        sdk_keys = self.notify(event, trigger)
        if not await self.is_kept(body, sdk_keys or ()):
            return self._reject("stopping", 503, "this sidecar is stopping, and could not pass the webhook on")
        self._received.put(body, True)
        if sdk_keys is None:
            return self._ignore(webhook.CONCERNS_NO_KEY)
        self.telemetry.webhook_timed(self.stats.time(event))
        if not sdk_keys:
            return self._ignore(
                "no SDK key waits for it" if event.is_withdrawal else "its revision is already on the volume"
            )
        self.stats.count("accepted")
        if event.is_withdrawal:
            self.telemetry.revision_withdrawn(sdk_keys, event.revision)
            return web.Response(status=202, text="accepted\n")
        self.telemetry.webhook_accepted(sdk_keys, trigger, event.revision, event.environment)
        return web.Response(status=202, text="accepted\n")

    def _ignore(self, reason: str, *, is_repeat: bool = False) -> web.Response:
        self.stats.count("ignored")
        self.telemetry.webhook_ignored(reason, is_repeat=is_repeat)
        return web.Response(text=f"nothing to do: {reason}\n")

    def _reject(self, outcome: str, status: int, reason: str) -> web.Response:
        self.stats.count(outcome, reason)
        self.telemetry.webhook_rejected(outcome, reason)
        return web.Response(status=status, text=f"{reason}\n")


async def _close_afterwards(_: web.Request, response: web.StreamResponse) -> None:
    # A sender that reuses an idle connection just as we drop it loses its webhook: HTTP clients don't repeat a POST.
    response.headers["Connection"] = "close"
    response.force_close()
