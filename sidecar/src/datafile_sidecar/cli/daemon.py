"""The composition root: builds all parts, connects them, runs them in one TaskGroup, and ends them in phases."""

import asyncio
import errno
import functools
import gc
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from importlib.metadata import version
from typing import Any

from datafile_sidecar.admin.server import Admin
from datafile_sidecar.bus import Bus, FleetMembership
from datafile_sidecar.cli.fleet_report import fleet_report
from datafile_sidecar.cli.key_syncer import key_syncer
from datafile_sidecar.cli.shutdown import Shutdown
from datafile_sidecar.config.credential_reloader import CredentialReloader
from datafile_sidecar.config.credentials import Secrets, Tokens
from datafile_sidecar.config.settings import Settings
from datafile_sidecar.core import backoff, url_policy
from datafile_sidecar.core.display_text import printable, shorten
from datafile_sidecar.core.schedule import Pace
from datafile_sidecar.core.state import Trigger
from datafile_sidecar.core.times import rfc3339
from datafile_sidecar.core.webhook import DatafileUpdated
from datafile_sidecar.network.descriptors import descriptor_limits
from datafile_sidecar.network.server import bind, serving
from datafile_sidecar.network.turns import Capacity
from datafile_sidecar.observe.telemetry import Telemetry
from datafile_sidecar.sync import dispatch
from datafile_sidecar.sync.bootstrap import Bootstrap
from datafile_sidecar.sync.comparisons import Comparisons
from datafile_sidecar.sync.store import KeyStore
from datafile_sidecar.sync.syncer import KeySyncer
from datafile_sidecar.upstream import Upstream
from datafile_sidecar.volume.directory import Volume, VolumeError
from datafile_sidecar.volume.workers import Workers
from datafile_sidecar.webhooks.newest import NewestRevision
from datafile_sidecar.webhooks.peers import Peers
from datafile_sidecar.webhooks.receiver import Receiver
from datafile_sidecar.webhooks.stats import WebhookStats

SUMMARY_INTERVAL_S = 10.0
Work = Callable[[], Awaitable[None]]
_MAX_POD = 70  # Kubernetes' names have 63 at most
_OUT_OF_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Daemon:
    """One sidecar, built from settings and a volume that is locked already. `run` returns when `stop` is set."""

    def __init__(self, settings: Settings, environ: Mapping[str, str], volume: Volume, telemetry: Telemetry) -> None:
        """Read the credentials and open both ports.

        Raises:
            CredentialsError: Secrets or tokens can't be used.
            ListenError: A port can't be opened.
            BusError: The client for Redis is not installed.
        """
        self._settings = settings
        self._telemetry = telemetry
        self._version = version("datafile-sidecar")
        self._volume = volume
        self._pod = environ.get("HOSTNAME") or socket.gethostname()
        self._started = time.time()
        self._instance = secrets.token_hex(8)
        self._secrets = Secrets(settings.webhook_secrets_path, settings.webhook_secrets, time.monotonic)
        self._tokens = Tokens(settings.access_tokens_path, settings.sdk_keys)
        self._credentials = CredentialReloader(self._secrets, self._tokens, self._retry, telemetry)
        webhook, admin = settings.webhook_listen, settings.admin_listen
        self._webhook_socket = bind(webhook.host, webhook.port, "DATAFILE_WEBHOOK_LISTEN")
        self._admin_socket = bind(admin.host, admin.port, "DATAFILE_ADMIN_LISTEN")
        self._upstreams = {
            template: Upstream(template=template, environ=environ, user_agent=f"datafile-sidecar/{self._version}")
            for template in ([settings.url_template] if settings.url_template else url_policy.TEMPLATES)
        }
        self._limits = descriptor_limits()
        self._workers = Workers(settings.dir, settings.sdk_keys, telemetry, self._limits.workers)
        self._capacity = capacity = Capacity()
        self._bus = Bus(settings.bus_url, telemetry, validations=capacity.validations) if settings.bus_url else None
        self._bootstrap = Bootstrap(settings.bootstrap_dir, settings.bootstrap_after_s, telemetry)
        self._comparisons = Comparisons(telemetry, self._workers.changes.notify, capacity)
        hosts = [host for host, _ in settings.peers]
        self._newest = NewestRevision(hosts, self._admin_socket.getsockname()[:2], self._expect)
        self._syncers = {key: self._syncer(key) for key in settings.sdk_keys}
        self._stats = WebhookStats(time.time)
        listens_on = self._webhook_socket.getsockname()[:2]
        self._peers = Peers(settings.peers, listens_on, telemetry, max_posts=self._limits.posts)
        self._shutdown = Shutdown(self._syncers, self._peers, self._bus)
        if self._bus is not None:
            name = f"{shorten(printable(self._pod), _MAX_POD)}/{self._instance}"
            self._bus.fleet = FleetMembership(fleet_report(name, settings.dir, self._syncers, self._workers), telemetry)

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set, then end in phases: unready, accepted work, servers, connections."""
        asyncio.get_running_loop().set_exception_handler(self._report_failure)
        self._announce_start()
        gc.freeze()  # what lives as long as the process: to look through it for 300 keys would stop all threads for 60 ms
        async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
            await self._open(stack)
            running = [tasks.create_task(_forever(work, name)) for name, work in self._work().items()]
            await stop.wait()
            await self._shutdown.settle()
            for task in running:
                task.cancel()
        self._telemetry.sidecar_stopped()

    def _work(self) -> dict[str, Work]:
        """Return what must run as long as the process, by its name in an error."""
        work: dict[str, Work] = {f"the loop of {key}": one.run for key, one in self._syncers.items()}
        work["the log summary"] = self._report_regularly
        work["the reload of credentials"] = self._credentials.run
        work["the socket for workers"] = self._workers.run
        work["the relay to peers"] = self._peers.run
        work["the questions of new pods to peers"] = self._newest.run
        work["the comparison of datafiles"] = self._comparisons.run
        if self._bus is not None:
            work["the bus"] = self._bus.run
        return work

    async def _open(self, stack: AsyncExitStack) -> None:
        for one in self._upstreams.values():
            await stack.enter_async_context(one)
        admin = Admin(self._stuck, self._unready, self._status, self._telemetry.exposition, self._workers.changes)
        limit = self._limits.connections
        await stack.enter_async_context(
            serving(admin.app(), self._admin_socket, self._dropped("admin"), max_connections=limit, max_body_bytes=0)
        )
        receiver = Receiver(
            secrets=lambda: self._secrets.active,
            reload_secrets=self._credentials.reload_secrets,
            notify=self._notify,
            relay=self._peers.relay,
            stats=self._stats,
            telemetry=self._telemetry,
            is_kept=self._shutdown.is_kept,
            instance=self._instance,
        )
        dropped = self._dropped("webhook")
        await stack.enter_async_context(serving(receiver.app(), self._webhook_socket, dropped, max_connections=limit))

    def _announce_start(self) -> None:
        settings, telemetry = self._settings, self._telemetry
        telemetry.prepare(self._version, settings.sdk_keys)
        self._clean()
        telemetry.sidecar_started(self._version, settings.sdk_keys, str(settings.dir))
        telemetry.admin_listening(*self._admin_socket.getsockname()[:2])
        telemetry.webhook_listening(*self._webhook_socket.getsockname()[:2])
        if not self._secrets.active:
            telemetry.webhook_disabled()
        self._credentials.warn()

    def _clean(self) -> None:
        try:
            if leftovers := self._volume.clean():
                self._telemetry.volume_cleaned(leftovers)
        except VolumeError as problem:
            # No reason to end: a volume that can't be written to still serves what it holds.
            self._telemetry.cleaning_failed(str(problem))

    # What the parts are given

    def _notify(self, event: DatafileUpdated, trigger: Trigger) -> tuple[str, ...] | None:
        sdk_keys = dispatch.notify(self._syncers, event, trigger)
        self._workers.changes.notify()
        return sdk_keys

    def _dropped(self, port: str) -> Callable[[], None]:
        return functools.partial(self._telemetry.connection_dropped, port)

    def _syncer(self, sdk_key: str) -> KeySyncer:
        return key_syncer(
            KeyStore(sdk_key, self._volume, on_published=functools.partial(self._workers.published, sdk_key)),
            functools.partial(self._source, sdk_key),
            self._settings,
            Pace(self._settings.poll_interval_s, backoff.place(self._pod, sdk_key)),
            self._capacity,
            self._bootstrap,
            self._telemetry,
            bus=self._bus,
            ask_peers=self._newest.ask,
            compare=self._comparisons.add,
        )

    def _expect(self, sdk_key: str, newest: tuple[int, int] | None) -> None:
        if newest is not None:
            self._syncers[sdk_key].expect(*newest)
        if self._bus is None:
            self._syncers[sdk_key].receive(None)

    def _source(self, sdk_key: str) -> tuple[Upstream, str | None]:
        token = self._tokens.get(sdk_key)
        template = url_policy.default_template(self._settings.url_template, has_token=token is not None)
        return self._upstreams[template], token

    def _stuck(self) -> list[str]:
        return [f"the loop of {key}" for key, one in self._syncers.items() if not one.is_alive]

    def _unready(self) -> dict[str, str]:
        missing = {key: problem for key, one in self._syncers.items() if (problem := one.state.problem)}
        return missing | ({"sidecar": "it is stopping"} if self._shutdown.has_begun else {})

    async def _status(self) -> dict[str, Any]:
        workers_status = await self._workers.status()
        workers = self._workers.by_key()
        return {
            "version": self._version,
            "pod": self._pod,
            "instance": self._instance,
            "now": rfc3339(time.time()),
            "started": rfc3339(self._started),
            "ready": not self._unready(),
            "keys": {key: one.status() | {"workers": workers[key]} for key, one in self._syncers.items()},
            "webhooks": self._stats.status(has_secrets=bool(self._secrets.active)),
            "workers": workers_status,
            "bus": self._bus.view() if self._bus else {"state": "off"},
            "peers": self._peers.status(),
        }

    def _report_failure(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Report what failed in the event loop itself. asyncio fails to accept connections again and again, many times a second."""
        problem = context.get("exception")
        if isinstance(problem, OSError) and problem.errno in _OUT_OF_RESOURCES:
            self._telemetry.resources_exhausted(problem.strerror or str(problem))
        else:
            loop.default_exception_handler(context)

    async def _report_regularly(self) -> None:
        while True:
            await asyncio.sleep(SUMMARY_INTERVAL_S)
            self._telemetry.summarise()

    def _retry(self) -> None:
        for one in self._syncers.values():
            one.retry()


async def _forever(work: Work, name: str) -> None:
    """Run what must never return; if it does, that is an error, and the process ends."""
    await work()
    raise RuntimeError(f"{name} ended, which it never should")
