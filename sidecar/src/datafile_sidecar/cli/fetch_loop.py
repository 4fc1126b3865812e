"""The work of `fetch`: run each key's daemon loop until upstream has confirmed its datafile, or the time is over.

It is the same loop as in `run`, so retries, validation and rollbacks are the same.
"""

import asyncio
import random
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass

from datafile_sidecar.config.credentials import Tokens
from datafile_sidecar.config.settings import Settings
from datafile_sidecar.core import url_policy
from datafile_sidecar.core.gate import AdmissionPolicy
from datafile_sidecar.core.schedule import Pace
from datafile_sidecar.core.state import RollbackPolicy
from datafile_sidecar.observe.telemetry import Telemetry
from datafile_sidecar.sync.bootstrap import Bootstrap
from datafile_sidecar.sync.fetcher import Fetcher
from datafile_sidecar.sync.store import KeyStore
from datafile_sidecar.sync.syncer import KeySyncer
from datafile_sidecar.upstream import Upstream
from datafile_sidecar.volume.directory import Volume

_CHECK_INTERVAL_S = 0.02
_WRITE_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """How long to try, and whether a datafile that upstream has not confirmed is accepted after that."""

    timeout_s: float
    allow_stale: bool


@dataclass(frozen=True, slots=True)
class KeyResult:
    """The outcome for one key.

    `revision` is on the volume now, None without a datafile. `problem` says why upstream has not confirmed it, None if
    it has.
    """

    sdk_key: str
    revision: int | None
    problem: str | None

    def __str__(self) -> str:
        volume = (
            "no datafile is on the volume" if self.revision is None else f"revision {self.revision} is on the volume"
        )
        return f"{self.sdk_key}: {volume}; {self.problem or 'confirmed by upstream'}"


async def fetch_and_print(
    settings: Settings,
    environ: Mapping[str, str],
    tokens: Tokens,
    volume: Volume,
    telemetry: Telemetry,
    limits: FetchLimits,
) -> int:
    """Fetch, print a line for each key and return the exit status: 0 when each key has an accepted datafile."""
    bootstrap_dir = settings.bootstrap_dir if limits.allow_stale else None
    bootstrap = Bootstrap(bootstrap_dir, settings.bootstrap_after_s, telemetry)
    fetches = []
    async with AsyncExitStack() as stack:
        for key in settings.sdk_keys:
            token = tokens.get(key)
            template = url_policy.default_template(settings.url_template, has_token=token is not None)
            upstream = await stack.enter_async_context(Upstream(template=template, environ=environ))
            fetches.append(_KeyFetch(key, KeyStore(key, volume), (upstream, token), bootstrap, settings, telemetry))
        results = await asyncio.gather(*(fetch.run(limits) for fetch in fetches))
    print(*results, sep="\n")  # noqa: T201
    return int(any(one.problem and (one.revision is None or not limits.allow_stale) for one in results))


class _KeyFetch:
    """One key's loop, run until upstream has confirmed its datafile or the time is over."""

    def __init__(
        self,
        sdk_key: str,
        store: KeyStore,
        source: tuple[Upstream, str | None],
        bootstrap: Bootstrap,
        settings: Settings,
        telemetry: Telemetry,
    ) -> None:
        self._store = store
        jitter = random.Random()
        self._fetcher = Fetcher(sdk_key, source=lambda: source, poll_interval_s=0, random=jitter, telemetry=telemetry)
        self._syncer = KeySyncer(
            store=store,
            fetcher=self._fetcher,
            bus=None,
            bootstrap=bootstrap,
            pace=Pace(0, 0),
            policy=AdmissionPolicy(RollbackPolicy.of(settings.rollback_after_s, 0)),
            random=jitter,
            telemetry=telemetry,
        )
        self._has_bootstrap = bootstrap.directory is not None
        self._started = time.time()

    async def run(self, limits: FetchLimits) -> KeyResult:
        async with asyncio.TaskGroup() as tasks:
            loop = tasks.create_task(self._syncer.run())
            await self._wait(limits.timeout_s)
            if self._is_confirmed:
                # The loop may still be writing the status file.
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._syncer.settle(), _WRITE_TIMEOUT_S)
            loop.cancel()
        revision = self._syncer.status()["revision"]
        problem = None if self._is_confirmed else self._syncer.status()["last_error"] or "no answer within the timeout"
        return KeyResult(self._syncer.sdk_key, revision, problem)

    @property
    def _is_confirmed(self) -> bool:
        checked = self._store.checked
        return checked is not None and checked >= self._started

    async def _wait(self, timeout_s: float) -> None:
        now = asyncio.get_running_loop().time
        deadline = now() + timeout_s
        while not self._is_confirmed and now() < deadline:
            # After a refusal, or a Retry-After beyond the deadline, only a bootstrap file can still help.
            retries_too_late = self._fetcher.available_at() > deadline
            if retries_too_late and (self._syncer.problem is None or not self._has_bootstrap):
                return
            await asyncio.sleep(_CHECK_INTERVAL_S)
