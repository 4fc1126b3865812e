"""The webhook port: size, signature, JSON, event, answer. The work that a webhook sets off comes after the answer."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from aiohttp import web
from aiohttp.http import HttpProcessingError

from datafile_sidecar.core import webhook
from datafile_sidecar.core.state import Trigger
from datafile_sidecar.core.webhook import PATH, RELAYED_HEADER, SIGNATURE_HEADER, DatafileUpdated, MalformedWebhookError
from datafile_sidecar.observe.telemetry import Telemetry
from datafile_sidecar.webhooks.stats import Intake

MAX_BODY_BYTES: Final = 64 * 1024
BODY_TIMEOUT_S: Final = 5.0
SIGNATURE: Final = SIGNATURE_HEADER.lower().encode()


@dataclass(frozen=True, slots=True)
class Receiver:
    """The webhook endpoint.

    `secrets` gives the secrets that may sign now; `reread` looks for new ones after a bad signature, and is true where there
    are; `notify` wakes the loops that an event concerns and gives their keys; `relay` tells other sidecars of a webhook, by
    its body and its signature, once this one has been answered; `intake` remembers for `/status`.
    """

    secrets: Callable[[], tuple[bytes, ...]]
    reread: Callable[[], Awaitable[bool]]
    notify: Callable[[DatafileUpdated, Trigger], tuple[str, ...]]
    relay: Callable[[bytes, bytes], None]
    intake: Intake
    telemetry: Telemetry

    def app(self) -> web.Application:
        """An application with this one endpoint. Serve it with `auto_decompress=False`: the signature is over the wire's bytes."""
        app = web.Application()
        app.router.add_post(PATH, self.receive)
        app.on_response_prepare.append(_close_afterwards)
        return app

    async def receive(self, request: web.Request) -> web.Response:
        """Answer one webhook: 202 a loop is awake for it, 204 no news here; 400, 401, 413, 503, 408 as `docs/contract.md` says."""
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                body = await _read(request)
        except TimeoutError:
            return self._reject("too_slow", 408, "the body did not arrive in time")
        except (OSError, HttpProcessingError, RuntimeError):
            # The last is what aiohttp raises when the connection was gone before we began to read.
            return self._reject("broken_off", 400, "the connection broke before the whole body had come")
        if body is None:
            return self._reject("too_large", 413, f"a webhook has at most {MAX_BODY_BYTES} bytes")
        if not self.secrets():
            return self._reject(
                "no_secret", 503, "no webhook secret is configured here; set DATAFILE_WEBHOOK_SECRETS_PATH"
            )
        if (signature := await self._signature(request, body)) is None:
            return self._reject("unverified", 401, "the signature is missing or wrong")
        try:
            event = webhook.parse(body)
        except MalformedWebhookError as problem:
            return self._reject("malformed", 400, str(problem))
        is_relayed = RELAYED_HEADER in request.headers
        if isinstance(event, DatafileUpdated) and not is_relayed:
            self.relay(body, signature)
        return self._take(event, Trigger.PEER if is_relayed else Trigger.WEBHOOK)

    async def _signature(self, request: web.Request, body: bytes) -> bytes | None:
        """The header that signs the body, None where none does."""
        headers = [value for name, value in request.raw_headers if name.lower() == SIGNATURE]
        header = headers[0] if len(headers) == 1 else None
        if webhook.verify(body, header, self.secrets()):
            return header
        if header is not None and await self.reread() and webhook.verify(body, header, self.secrets()):
            return header
        return None

    def _take(self, event: DatafileUpdated | webhook.OtherEvent, trigger: Trigger) -> web.Response:
        if not isinstance(event, DatafileUpdated):
            return self._ignore("another event")
        if awake := self.notify(event, trigger):
            self.intake.verified("accepted")
            self.telemetry.webhook_accepted(awake, trigger, event.revision, event.environment)
            return web.Response(status=202, text="accepted\n")
        return self._ignore("another environment or project, or nothing newer than what is on the volume")

    def _ignore(self, reason: str) -> web.Response:
        self.intake.verified("ignored")
        self.telemetry.webhook_ignored(reason)
        return web.Response(status=204)

    def _reject(self, outcome: str, status: int, reason: str) -> web.Response:
        self.intake.rejected(outcome, reason)
        self.telemetry.webhook_rejected(outcome, reason)
        return web.Response(status=status, text=f"{reason}\n")


async def _close_afterwards(_: web.Request, response: web.StreamResponse) -> None:
    # A sender that reuses a connection just as we drop it, idle, loses its webhook: a POST is not sent again by itself.
    response.headers["Connection"] = "close"
    response.force_close()


async def _read(request: web.Request) -> bytes | None:
    """The body as it came over the wire, None where it is too large."""
    if (request.content_length or 0) > MAX_BODY_BYTES:
        return None
    body = bytearray()
    async for chunk in request.content.iter_any():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            return None
    return bytes(body)
