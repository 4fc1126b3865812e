"""The work of `fetch`: run each key's daemon loop until upstream has confirmed its datafile, or the time is over.

It is the same loop as in `run`, so retries, validation and rollbacks are the same.
"""

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress

from datafile_sidecar.cli.key_syncer import key_syncer
from datafile_sidecar.config.credentials import Tokens
from datafile_sidecar.config.settings import Settings
from datafile_sidecar.core import url_policy
from datafile_sidecar.core.schedule import Pace
from datafile_sidecar.network.turns import Capacity
from datafile_sidecar.observe.telemetry import Telemetry
from datafile_sidecar.sync.bootstrap import Bootstrap
from datafile_sidecar.sync.store import KeyStore
from datafile_sidecar.upstream import Upstream
from datafile_sidecar.volume.directory import Volume

_CHECK_INTERVAL_S = 0.02
_WRITE_TIMEOUT_S = 2.0


async def fetch_and_print(
    settings: Settings,
    environ: Mapping[str, str],
    tokens: Tokens,
    volume: Volume,
    telemetry: Telemetry,
    *,
    timeout_s: float,
    allow_stale: bool,
) -> int:
    """Fetch, print a line for each key and return the exit status: 0 when each key has an accepted datafile."""
    bootstrap_dir = settings.bootstrap_dir if allow_stale else None
    bootstrap = Bootstrap(bootstrap_dir, settings.bootstrap_after_s, telemetry)
    fetches, capacity = [], Capacity()
    async with AsyncExitStack() as stack:
        for key in settings.sdk_keys:
            token = tokens.get(key)
            template = url_policy.default_template(settings.url_template, has_token=token is not None)
            upstream = await stack.enter_async_context(Upstream(template=template, environ=environ))
            fetches.append(
                _KeyFetch(KeyStore(key, volume), (upstream, token), bootstrap, settings, telemetry, capacity)
            )
        results = await asyncio.gather(*(fetch.run(timeout_s) for fetch in fetches))
    for key, (revision, problem) in zip(settings.sdk_keys, results, strict=True):
        datafile = "no datafile" if revision is None else f"revision {revision}"
        print(f"{key}: {datafile} is on the volume; {problem or 'confirmed by upstream'}")  # noqa: T201
    return int(any(problem and (revision is None or not allow_stale) for revision, problem in results))


class _KeyFetch:
    """One key's loop, run until upstream has confirmed its datafile or the time is over."""

    def __init__(
        self,
        store: KeyStore,
        source: tuple[Upstream, str | None],
        bootstrap: Bootstrap,
        settings: Settings,
        telemetry: Telemetry,
        capacity: Capacity,
    ) -> None:
        self._syncer = key_syncer(store, lambda: source, settings, Pace(0, 0), capacity, bootstrap, telemetry)
        self._has_bootstrap = bootstrap.directory is not None

    async def run(self, timeout_s: float) -> tuple[int | None, str | None]:
        """Fetch and publish.

        Returns:
            The revision on the volume, None without a datafile, and why upstream has not confirmed it, None if it has.
        """
        async with asyncio.TaskGroup() as tasks:
            loop = tasks.create_task(self._syncer.run())
            await self._wait(timeout_s)
            if self._is_confirmed:
                # The loop may still be writing the status file.
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._syncer.settle(), _WRITE_TIMEOUT_S)
            loop.cancel()
        self._syncer.fetcher.end_turn()
        status = self._syncer.status()
        problem = None if self._is_confirmed else status["last_error"] or "no answer within the timeout"
        return status["revision"], problem

    @property
    def _is_confirmed(self) -> bool:
        return self._syncer.state.checked and self._syncer.state.problem is None

    async def _wait(self, timeout_s: float) -> None:
        now = asyncio.get_running_loop().time
        deadline = now() + timeout_s
        while not self._is_confirmed and now() < deadline:
            # After a refusal, or a Retry-After beyond the deadline, only a bootstrap file can still help.
            retries_too_late = self._syncer.fetcher.available_at() > deadline
            if retries_too_late and (self._syncer.state.problem is None or not self._has_bootstrap):
                return
            await asyncio.sleep(_CHECK_INTERVAL_S)
