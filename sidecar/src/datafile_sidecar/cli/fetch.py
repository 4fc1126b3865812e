"""`datafile-sidecar fetch`: what the daemon does for its keys at the start, once, and then an end.

The same loop does it, so that retries, validation, and what becomes of an older revision are the same, too.
"""

import asyncio
import random
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
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

_LOOK_S = 0.02


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to try, in seconds, and whether a datafile that upstream has not confirmed is good enough after that."""

    timeout_s: float
    allow_stale: bool


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one key. `revision` is on the volume now, None where nothing is; `problem` says why it is not fresh."""

    sdk_key: str
    revision: int | None
    problem: str | None

    def __str__(self) -> str:
        have = "nothing is on the volume" if self.revision is None else f"revision {self.revision} is on the volume"
        return f"{self.sdk_key}: {have}; {self.problem or 'upstream has confirmed it'}"


async def show(
    told: Settings, environ: Mapping[str, str], volume: Volume, telemetry: Telemetry, patience: Patience
) -> int:
    """Fetch and print; the exit status: 0 where each key has a datafile that is good enough."""
    results = await fetch(told, environ, volume, telemetry, patience)
    print(*results, sep="\n")  # noqa: T201
    return int(any(one.problem and (one.revision is None or not patience.allow_stale) for one in results))


async def fetch(
    told: Settings, environ: Mapping[str, str], volume: Volume, telemetry: Telemetry, patience: Patience
) -> list[Result]:
    """Fetch, validate and publish the datafile of every key. Raises CredentialsError for tokens that can't be read."""
    tokens = Tokens(told.access_tokens_path, told.sdk_keys)
    bootstrap = Bootstrap(told.bootstrap_dir if patience.allow_stale else None, telemetry)
    errands = []
    async with AsyncExitStack() as rooms:
        for key in told.sdk_keys:
            token = tokens.get(key)
            template = url_policy.default_template(told.url_template, has_token=token is not None)
            upstream = await rooms.enter_async_context(Upstream(template=template, environ=environ))
            errands.append(_Errand(key, KeyStore(key, volume), (upstream, token), bootstrap, told, telemetry))
        return await asyncio.gather(*(errand.run(patience) for errand in errands))


class _Errand:
    """One key's loop, until upstream has confirmed what is on the volume, or patience is at its end."""

    def __init__(
        self,
        sdk_key: str,
        store: KeyStore,
        source: tuple[Upstream, str | None],
        bootstrap: Bootstrap,
        told: Settings,
        telemetry: Telemetry,
    ) -> None:
        self._store = store
        jitter = random.Random()
        self._fetcher = Fetcher(sdk_key, source=lambda: source, poll_interval_s=0, random=jitter, telemetry=telemetry)
        self._syncer = KeySyncer(
            store,
            self._fetcher,
            bus=None,
            bootstrap=bootstrap,
            pace=Pace(0, told.bootstrap_after_s, 0),
            policy=AdmissionPolicy(RollbackPolicy.of(told.rollback_after_s, 0)),
            random=jitter,
            telemetry=telemetry,
        )
        self._may_begin_elsewhere = bootstrap.directory is not None
        self._started = time.time()

    async def run(self, patience: Patience) -> Result:
        async with asyncio.TaskGroup() as tasks:
            loop = tasks.create_task(self._syncer.run())
            await self._wait(patience)
            loop.cancel()
        revision = self._syncer.status()["revision"]
        problem = None if self._is_fresh else self._syncer.status()["last_error"] or "it has not answered in time"
        return Result(self._syncer.sdk_key, revision, problem)

    @property
    def _is_fresh(self) -> bool:
        checked = self._store.checked
        return checked is not None and checked >= self._started

    async def _wait(self, patience: Patience) -> None:
        now = asyncio.get_running_loop().time
        deadline = now() + patience.timeout_s
        while not self._is_fresh and now() < deadline:
            # Who was refused, or asked to wait for longer than there is time, need not wait for the end of it.
            is_in_vain = self._fetcher.available_at() > deadline
            if is_in_vain and (self._syncer.problem is None or not self._may_begin_elsewhere):
                return
            await asyncio.sleep(_LOOK_S)
