"""Mounted credentials, read again while the sidecar runs: rotation and revocation need no restart.

Reading is done beside the event loop, for a mount may hang. Then those read before stay in use, nothing else waits, and no
second thread is lost to it.
"""

import asyncio
from collections.abc import Callable

from datafile_sidecar.config.credentials import CredentialsError, Secrets, Tokens
from datafile_sidecar.observe.telemetry import Telemetry

EVERY_S = 10.0
_SOON_S = 1.0


class Rotation:
    """Looks at the mounted secrets and tokens every ten seconds, and at the secrets after a bad signature."""

    def __init__(self, secrets: Secrets, tokens: Tokens, new_tokens: Callable[[], None], telemetry: Telemetry) -> None:
        """`new_tokens` is told when tokens have changed."""
        self._known = secrets
        self._secrets = _Mounted("webhook secrets", secrets.reread, lambda: len(secrets.active), telemetry)
        self._tokens = _Mounted("access tokens", tokens.reread, lambda: len(tokens), telemetry, new_tokens)

    async def run(self) -> None:
        """Look, for ever."""
        async with asyncio.TaskGroup() as tasks:
            for mounted in (self._secrets, self._tokens):
                tasks.create_task(mounted.watch())

    async def look_for_secrets(self) -> bool:
        """Whether there are new ones, by a look that is a second old at most, and takes no longer."""
        is_due = self._secrets.is_being_read or not self._known.are_recent
        return is_due and await self._secrets.look(_SOON_S)


class _Mounted:
    """One kind of credentials. Only one thread reads it at a time, however many look."""

    def __init__(
        self,
        kind: str,
        reread: Callable[[], bool],
        count: Callable[[], int],
        telemetry: Telemetry,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._kind = kind
        self._reread = reread
        self._count = count
        self._telemetry = telemetry
        self._changed = changed
        self._reading: asyncio.Future[bool] | None = None
        self._began = 0.0
        self._complaint = ""

    @property
    def is_being_read(self) -> bool:
        return self._reading is not None

    async def watch(self) -> None:
        while True:
            await asyncio.sleep(EVERY_S)
            await self.look(EVERY_S)

    async def look(self, within_s: float) -> bool:
        """Read it, or wait for who is reading it, so long after that began; whether it has changed."""
        loop = asyncio.get_running_loop()
        if self._reading is None:
            self._began = loop.time()
            self._reading = loop.run_in_executor(None, self._reread)
            self._reading.add_done_callback(self._done)
        try:
            async with asyncio.timeout_at(self._began + within_s):
                return await asyncio.shield(self._reading)
        except CredentialsError:
            return False
        except TimeoutError:
            if within_s >= EVERY_S:
                self._complain(f"reading them has not ended within {within_s:g} s; does the mount hang?")
            return False

    def _done(self, reading: asyncio.Future[bool]) -> None:
        self._reading = None
        if reading.cancelled():
            return
        if problem := reading.exception():
            self._complain(str(problem))
            return
        self._complaint = ""
        if reading.result():
            self._telemetry.credentials_changed(self._kind, self._count())
            self._changed()

    def _complain(self, problem: str) -> None:
        # Anybody can have them read again, by a bad signature: what was said once is not said again.
        if problem != self._complaint:
            self._complaint = problem
            self._telemetry.credentials_failed(self._kind, problem)
