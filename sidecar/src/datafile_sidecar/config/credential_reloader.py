"""Rereads mounted credentials while the sidecar runs, so that rotating or revoking one needs no restart.

Files are read in a thread, because a mount may hang. Meanwhile the previous credentials stay in use, nothing else waits,
and no second thread is started for the same files.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from datafile_sidecar.config.credentials import CredentialsError, Secrets, Tokens
from datafile_sidecar.network.single_flight import SingleFlight
from datafile_sidecar.observe.telemetry import Telemetry

RELOAD_INTERVAL_S = 10.0
_SIGNATURE_TIMEOUT_S = 1.0


class CredentialReloader:
    """Rereads mounted secrets and tokens every ten seconds, and the secrets also after a bad signature."""

    def __init__(self, secrets: Secrets, tokens: Tokens, new_tokens: Callable[[], None], telemetry: Telemetry) -> None:
        """`new_tokens` is called when tokens have changed."""
        self._active_secrets = secrets
        self._active_tokens = tokens
        self._telemetry = telemetry
        self._new_tokens = new_tokens
        self._warned: frozenset[tuple[str, str]] = frozenset()
        self._secrets = _MountedFiles(
            "webhook secrets",
            SingleFlight(secrets.reread, "webhook secrets"),
            lambda: len(secrets.active),
            telemetry,
            self.warn,
        )
        self._tokens = _MountedFiles(
            "access tokens",
            SingleFlight(tokens.reread, "access tokens"),
            lambda: len(tokens),
            telemetry,
            self._tokens_changed,
        )

    def warn(self) -> None:
        """Log what was removed around secrets and tokens, each once."""
        marked = (*self._active_secrets.marked, *self._active_tokens.marked)
        trimmed = [(name, "white space around") for name in self._active_secrets.untrimmed]
        trimmed += [(name, "a byte order mark before") for name in marked]
        for name, what in trimmed:
            if (name, what) not in self._warned:
                self._telemetry.secret_trimmed(name, what)
        self._warned = frozenset(trimmed)

    def _tokens_changed(self) -> None:
        self.warn()
        self._new_tokens()

    async def run(self) -> None:
        """Reread both at each interval, forever."""
        async with asyncio.TaskGroup() as tasks:
            for files in (self._secrets, self._tokens):
                tasks.create_task(files.run())

    async def reload_secrets(self) -> bool:
        """Reread the secrets unless they are less than a second old. Returns within a second whether they changed."""
        is_due = self._secrets.read.is_running or not self._active_secrets.are_recent
        return is_due and await self._secrets.reload(_SIGNATURE_TIMEOUT_S)


@dataclass(slots=True)
class _MountedFiles:
    """Credentials of one kind. Concurrent reloads share one read in one thread."""

    kind: str
    read: SingleFlight[bool]
    count: Callable[[], int]
    telemetry: Telemetry
    on_change: Callable[[], None] = lambda: None
    reading_since: float = 0.0
    last_error: str = ""

    async def run(self) -> None:
        while True:
            await asyncio.sleep(RELOAD_INTERVAL_S)
            await self.reload(RELOAD_INTERVAL_S)

    async def reload(self, timeout_s: float) -> bool:
        """Start a read or join the current one, until `timeout_s` after its start. Returns whether anything changed."""
        if not self.read.is_running:
            self.reading_since = asyncio.get_running_loop().time()
            self.read.start().add_done_callback(self._finish)
        try:
            async with asyncio.timeout_at(self.reading_since + timeout_s):
                return await self.read.result()
        except CredentialsError:
            return False
        except TimeoutError:
            if timeout_s >= RELOAD_INTERVAL_S:
                self._report(f"not read within {timeout_s:g} s; does the mount hang?")
            return False

    def _finish(self, reading: asyncio.Future[bool]) -> None:
        if error := reading.exception():
            self._report(str(error))
            return
        self.last_error = ""
        if reading.result():
            self.telemetry.credentials_changed(self.kind, self.count())
            self.on_change()

    def _report(self, error: str) -> None:
        # Anyone can cause a read by sending a bad signature, so the same error is logged once.
        if error != self.last_error:
            self.last_error = error
            self.telemetry.credentials_failed(self.kind, error)
