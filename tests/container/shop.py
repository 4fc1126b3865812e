"""The example app's customers, and the flags that it is served."""

import asyncio
import time
from typing import Any, Self

from aiohttp import ClientError, ClientSession, TCPConnector

from datafile_client.testing import make_datafile
from tests.container.pods import ADMIN_URL, APP_URL, KEY

WORKERS = 2


def flags(revision: int, text: str) -> bytes:
    """A datafile in which the new checkout is on and says so."""
    checkout = {"on": True, "variables": {"text": text}}
    return make_datafile({"checkout": checkout}, revision=revision, sdk_key=KEY)


class Visitor:
    """Somebody inside the pod's network who asks sidecar and app: an async context manager."""

    def __init__(self, sdk_key: str = KEY) -> None:
        self._sdk_key = sdk_key

    async def checkout(self) -> dict[str, Any]:
        """What one worker of the app decides. Raises aiohttp's ClientError when it gives no answer."""
        return await self._json(f"{APP_URL}/checkout/user-1")

    async def status(self) -> dict[str, Any]:
        """What the sidecar's /status says of the key."""
        key: dict[str, Any] = (await self._json(f"{ADMIN_URL}/status"))["keys"][self._sdk_key]
        return key

    async def probe(self, path: str) -> int:
        """The status of one of the admin port's answers, 0 where nobody listens."""
        try:
            async with self._session.get(f"{ADMIN_URL}{path}") as answer:
                return answer.status
        except ClientError:
            return 0

    async def ready(self, within_s: float = 20) -> None:
        """Wait for /readyz. Raises TimeoutError."""
        async with asyncio.timeout(within_s):
            while await self.probe("/readyz") != 200:
                await asyncio.sleep(0.005)

    async def sees(self, text: str, within_s: float = 20) -> float:
        """Ask the app until ten answers in a row say this; the seconds until the first of them. Raises TimeoutError."""
        began = first = time.monotonic()
        row = 0
        async with asyncio.timeout(within_s):
            while row < 10:
                row = row + 1 if await self._text() == text else 0
                first = time.monotonic() if row <= 1 else first
                await asyncio.sleep(0.001)
        return first - began

    async def revision(self, revision: int, within_s: float = 20) -> None:
        """Wait until the sidecar has published this revision. Raises TimeoutError."""
        async with asyncio.timeout(within_s):
            while (await self.status())["revision"] != revision:
                await asyncio.sleep(0.005)

    async def workers(self, revision: int) -> None:
        """Wait until the sidecar knows of every worker of the app that it decides by this revision. Raises TimeoutError."""
        async with asyncio.timeout(20):
            while [worker["revision"] for worker in (await self.status())["workers"]] != [revision] * WORKERS:
                await asyncio.sleep(0.02)

    async def __aenter__(self) -> Self:
        # A connection for each question, or one worker would answer them all.
        self._session = ClientSession(connector=TCPConnector(force_close=True))
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._session.close()

    async def _text(self) -> str | None:
        try:
            return str((await self.checkout())["text"])
        except ClientError:
            return None

    async def _json(self, url: str) -> dict[str, Any]:
        async with self._session.get(url, raise_for_status=True) as answer:
            body: dict[str, Any] = await answer.json()
            return body
