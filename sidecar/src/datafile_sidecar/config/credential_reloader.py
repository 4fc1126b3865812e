"""Rereads mounted credentials while the sidecar runs, so that rotating or revoking one needs no restart.

Files are read in a thread, because a mount may hang. Meanwhile the previous credentials stay in use, nothing else waits,
and no second thread is started for the same files.
"""

import asyncio
from collections.abc import Callable

from datafile_sidecar.config.credentials import CredentialsError, Secrets, Tokens
from datafile_sidecar.observe.telemetry import Telemetry

RELOAD_INTERVAL_S = 10.0
_SIGNATURE_TIMEOUT_S = 1.0


class CredentialReloader:
    """Rereads mounted secrets and tokens every ten seconds, and the secrets also after a bad signature."""

    def __init__(self, secrets: Secrets, tokens: Tokens, new_tokens: Callable[[], None], telemetry: Telemetry) -> None:
        """`new_tokens` is called when tokens have changed."""
        self._active_secrets = secrets
        self._secrets = _MountedFiles("webhook secrets", secrets.reread, lambda: len(secrets.active), telemetry)
        self._tokens = _MountedFiles("access tokens", tokens.reread, lambda: len(tokens), telemetry, new_tokens)

    async def run(self) -> None:
        """Reread both at each interval, forever."""
        async with asyncio.TaskGroup() as tasks:
            for files in (self._secrets, self._tokens):
                tasks.create_task(files.run())

    async def reload_secrets(self) -> bool:
        """Reread the secrets unless they are less than a second old. Returns within a second whether they changed."""
        is_due = self._secrets.is_being_read or not self._active_secrets.are_recent
        return is_due and await self._secrets.reload(_SIGNATURE_TIMEOUT_S)


class _MountedFiles:
    """Credentials of one kind. Concurrent reloads share one read in one thread."""

    def __init__(
        self,
        kind: str,
        reread: Callable[[], bool],
        count: Callable[[], int],
        telemetry: Telemetry,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._kind = kind
        self._reread = reread
        self._count = count
        self._telemetry = telemetry
        self._on_change = on_change
        self._reading: asyncio.Future[bool] | None = None
        self._reading_since = 0.0
        self._last_error = ""

    @property
    def is_being_read(self) -> bool:
        return self._reading is not None

    async def run(self) -> None:
        while True:
            await asyncio.sleep(RELOAD_INTERVAL_S)
            await self.reload(RELOAD_INTERVAL_S)

    async def reload(self, timeout_s: float) -> bool:
        """Start a read or join the current one, until `timeout_s` after its start. Returns whether anything changed."""
        loop = asyncio.get_running_loop()
        if self._reading is None:
            self._reading_since = loop.time()
            self._reading = loop.run_in_executor(None, self._reread)
            self._reading.add_done_callback(self._finish)
        try:
            async with asyncio.timeout_at(self._reading_since + timeout_s):
                return await asyncio.shield(self._reading)
        except CredentialsError:
            return False
        except TimeoutError:
            if timeout_s >= RELOAD_INTERVAL_S:
                self._report(f"not read within {timeout_s:g} s; does the mount hang?")
            return False

    def _finish(self, reading: asyncio.Future[bool]) -> None:
        self._reading = None
        if reading.cancelled():
            return
        if error := reading.exception():
            self._report(str(error))
            return
        self._last_error = ""
        if reading.result():
            self._telemetry.credentials_changed(self._kind, self._count())
            self._on_change()

    def _report(self, error: str) -> None:
        # Anyone can cause a read by sending a bad signature, so the same error is logged once.
        if error != self._last_error:
            self._last_error = error
            self._telemetry.credentials_failed(self._kind, error)
