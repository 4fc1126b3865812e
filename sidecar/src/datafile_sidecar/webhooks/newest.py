"""Asks a few peers, when a new pod starts, which revision they have, so that it does not begin behind the fleet unknowingly."""

import asyncio
import contextlib
import math
import random
from collections.abc import Callable, Sequence
from typing import Final

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from datafile_sidecar.core import fleet_status
from datafile_sidecar.core.fleet_status import InvalidStatusError, SidecarStatus
from datafile_sidecar.core.newest_revision import agreed_revision
from datafile_sidecar.network.http import client_session, read_body
from datafile_sidecar.network.resolver import DaemonResolver, addresses
from datafile_sidecar.webhooks.peer_addresses import Address, is_own

ASK_S: Final = 1.0
"""For resolving the names and for all answers."""

_RESOLVE_S = 0.5
_MAX_ASKED = 3
_REUSE_S = 5.0
_MAX_BYTES = 4 * 1024 * 1024


class NewestRevision:
    """Asks at most three peers when a key asks for it; keys that ask within 5 s of each other share the answers."""

    def __init__(
        self,
        hosts: Sequence[str],
        admin: Address,
        tell: Callable[[str, tuple[int, int] | None], None],
        resolver: AbstractResolver | None = None,
    ) -> None:
        """Ask nothing yet: `run` does.

        Args:
            hosts: The names of the peers.
            admin: Where our own admin port is bound. The peers' admin ports have the same number.
            tell: Takes a key that has asked, and the generation and revision that two peers have alike, None where no two do.
            resolver: Resolves the names.
        """
        self._hosts = tuple(dict.fromkeys(hosts))
        self._admin = admin
        self._tell = tell
        self._resolver = resolver or DaemonResolver()
        self._asking: set[str] = set()
        self._has_asked = asyncio.Event()

    def ask(self, sdk_key: str) -> bool:
        """Note that a key has no datafile, and wants to know what the peers have; return False where there are none."""
        if self._hosts:
            self._asking.add(sdk_key)
            self._has_asked.set()
        return bool(self._hosts)

    async def run(self) -> None:
        """Wait for keys that ask, and tell each what two peers have alike."""
        loop, statuses, answered_at = asyncio.get_running_loop(), list[SidecarStatus](), -math.inf
        while True:
            await self._has_asked.wait()
            self._has_asked.clear()
            if self._asking and not (statuses and loop.time() - answered_at < _REUSE_S):
                statuses.clear()
                with contextlib.suppress(TimeoutError):  # what has come by then decides
                    async with asyncio.timeout(ASK_S):
                        await self._gather(statuses)
                answered_at = loop.time()
            for sdk_key in sorted(self._asking):
                self._tell(sdk_key, agreed_revision(statuses, sdk_key))
            self._asking.clear()

    async def _gather(self, statuses: list[SidecarStatus]) -> None:
        """Add the answers of the peers, until all that is asked is known."""
        hosts = await asyncio.gather(*map(self._resolve, self._hosts))
        others = {host for found in hosts for host in found if not is_own((host, self._admin[1]), self._admin)}
        asked = random.sample(sorted(others), min(_MAX_ASKED, len(others)))
        async with client_session(ASK_S) as session:
            answers = [asyncio.ensure_future(self._status(session, host)) for host in asked]
            try:
                for answer in asyncio.as_completed(answers):
                    if (status := await answer) is not None:
                        statuses.append(status)
                    if all(agreed_revision(statuses, sdk_key) is not None for sdk_key in self._asking):
                        return
            finally:
                for one in answers:
                    one.cancel()

    async def _resolve(self, host: str) -> list[str]:
        try:
            return await addresses(self._resolver, host, _RESOLVE_S)
        except OSError:
            return []

    async def _status(self, session: aiohttp.ClientSession, host: str) -> SidecarStatus | None:
        try:
            url = URL.build(scheme="http", host=host, port=self._admin[1], path="/status")
            async with session.get(url, allow_redirects=False) as response:
                body = await read_body(response, _MAX_BYTES) if response.status == 200 else None
            return fleet_status.parse(body) if body is not None else None
        except (aiohttp.ClientError, OSError, ValueError, InvalidStatusError):
            return None
