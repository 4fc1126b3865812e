"""Arguments → settings → one command → exit status. What a command needs is imported when it runs."""

import argparse
import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from datafile_sidecar.cli import parser as arguments
from datafile_sidecar.cli.memory import give_back_large_blocks
from datafile_sidecar.config import settings
from datafile_sidecar.config.credentials import CredentialsError, Secrets
from datafile_sidecar.config.settings import Settings, SettingsError
from datafile_sidecar.observe import logs
from datafile_sidecar.observe.log_writer import LogWriter

if TYPE_CHECKING:
    from datafile_sidecar.observe.telemetry import Telemetry
    from datafile_sidecar.volume.directory import Volume

LEAVE_WITHIN_S = 1.8
TURNS_S = 0.001


def main(argv: Sequence[str], environ: Mapping[str, str] = os.environ) -> int:
    """Run one command; its exit status: 0 it did its work, 1 it could not, 2 it was told nonsense."""
    options = arguments.parser(COMMANDS, _variables()).parse_args(argv or ["run"])
    try:
        status: int = options.command(options, environ)
    except SettingsError as error:
        return _complain("the settings can't be used:", *error.problems, *_strange(environ))
    except CredentialsError as error:
        return _complain(str(error))
    except BrokenPipeError:
        return 1
    return status


def run(_: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Receive webhooks, poll, and publish into DATAFILE_DIR, until SIGTERM or SIGINT."""
    from datafile_sidecar.bus import BusError
    from datafile_sidecar.cli.daemon import Daemon
    from datafile_sidecar.network.server import ListenError
    from datafile_sidecar.volume.directory import VolumeError

    told = settings.load(environ)
    telemetry = _telemetry(told, environ)
    try:
        volume = _volume(told, telemetry)
        daemon = Daemon(told, environ, volume, telemetry)
        return _until_signalled(daemon.run, telemetry.sidecar_stopping)
    except (VolumeError, ListenError, BusError) as error:
        _complain(str(error))
        return 1
    except CredentialsError:
        raise
    except Exception as error:
        telemetry.sidecar_failed(error)
        return 1


def fetch(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Fetch each key's datafile, validate it, publish it into DATAFILE_DIR, and end: for an init container or a cron job.

    The exit status is 0 when upstream has confirmed what is on the volume for every key, else 1, and the reason is named.
    With --allow-stale it is 0, too, when a valid datafile is there from before or from DATAFILE_BOOTSTRAP_DIR.
    """
    from datafile_sidecar.cli import fetch
    from datafile_sidecar.volume.directory import VolumeError

    told = settings.load(environ)
    telemetry = _telemetry(told, environ)
    try:
        volume = _volume(told, telemetry)
    except VolumeError as error:
        _complain(str(error))
        return 1
    return _complete(fetch.show(told, environ, volume, telemetry, fetch.Patience(options.timeout, options.allow_stale)))


def check(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Look at settings, secrets, directory, upstream, bus and peers, and say what to mend. Changes nothing.

    Run it where the sidecar runs, with the same environment; it may run beside it. The exit status is 0 when it
    all works, 1 when something is to be mended, 2 when a sidecar would refuse to start.
    """
    from datafile_sidecar.cli import check

    return _complete(check.show(environ, options.json))


def simulate(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Stand in for Optimizely: serve a local datafile; on each edit raise its revision and post a signed webhook."""
    from datafile_sidecar.cli import simulator

    return _complete(
        simulator.simulate(
            datafile=options.datafile,
            sdk_key=options.sdk_key,
            listen=options.listen,
            webhook_url=options.webhook_url,
            secret=next(iter(_secrets(environ)), None),
            lag_s=options.lag,
        )
    )


def send_webhook(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Sign and post a webhook as Optimizely does, and say what the answer means."""
    from datafile_sidecar.cli import simulator

    secrets = _secrets(environ)
    if not secrets:
        return _complain("no secret to sign with: set DATAFILE_WEBHOOK_SECRETS or DATAFILE_WEBHOOK_SECRETS_PATH")
    return _complete(
        simulator.send_webhook(
            url=options.url,
            secret=secrets[0],
            sdk_key=options.sdk_key,
            revision=options.revision,
            project_id=options.project_id,
            environment=options.environment,
        )
    )


def status(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Ask this sidecar and every one that DATAFILE_PEERS leads to, and show which revision each, and each worker, decides by.

    With --wait-for-revision the exit status is 0 only when every worker of every pod has applied that revision or a newer
    one. Else it is 1, and who has not is named: a pod that can't be asked, a name that does not resolve and a pod
    without workers are not known to have.
    """
    from datafile_sidecar.cli import status as fleet

    keys, admin, peers = settings.fleet(environ)
    if not options.url and not admin.port:
        return _complain("DATAFILE_ADMIN_LISTEN lets the system pick a port: name the one that was picked with --url")
    places = fleet.Places(tuple(options.url)) if options.url else fleet.Places.around(admin.host, admin.port, peers)
    wish = None
    if options.wait_for_revision is not None:
        sdk_key = options.sdk_key or next(iter(keys), None)
        if sdk_key is None or (not options.sdk_key and len(keys) > 1):
            return _complain(f"which key shall have the revision? Name one with --sdk-key{_of(keys)}")
        wish = fleet.Wish(sdk_key, options.wait_for_revision, workers_needed=not options.allow_no_workers)
    return _complete(fleet.show(places, wish, options.sdk_key, options.timeout, options.json))


COMMANDS: Mapping[str, arguments.Command] = {
    "run": run,
    "fetch": fetch,
    "check": check,
    "status": status,
    "simulate": simulate,
    "send-webhook": send_webhook,
}


def _variables() -> list[tuple[str, str, str]]:
    return [(variable.name, variable.meaning, variable.default) for variable in settings.VARIABLES]


def _telemetry(told: Settings, environ: Mapping[str, str]) -> "Telemetry":
    """The log and the metrics; the first that they hear of are variables that mean nothing."""
    from datafile_sidecar.observe.telemetry import Telemetry

    writer = LogWriter(sys.stderr)
    logger = logs.configure(told.log_level, told.log_format, writer)
    telemetry = Telemetry(logger, time.monotonic, writer.take_dropped)
    for name, nearest in settings.unknown(environ).items():
        telemetry.setting_ignored(name, nearest)
    return telemetry


def _volume(told: Settings, telemetry: "Telemetry") -> "Volume":
    """The directory, ours until the process ends. Raises VolumeError."""
    from datafile_sidecar.volume.directory import Volume

    volume = Volume(told.directory)
    if volume.created:
        telemetry.volume_created(str(told.directory))
    return volume


def _of(keys: Sequence[str]) -> str:
    return f": {', '.join(keys)}" if keys else ""


def _secrets(environ: Mapping[str, str]) -> tuple[bytes, ...]:
    fixed, path = settings.secrets(environ)
    return Secrets(path, fixed, time.monotonic).active


def _strange(environ: Mapping[str, str]) -> list[str]:
    return [
        f"{name} is no setting" + (f"; is {nearest} meant?" if nearest else "")
        for name, nearest in settings.unknown(environ).items()
    ]


def _complete(work: Coroutine[Any, Any, int]) -> int:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)
    try:
        return asyncio.run(work)
    except KeyboardInterrupt:
        return 130


def _until_signalled(work: Any, tell: Any) -> int:
    """Run `work(stop)`, setting `stop` at the first signal; a second one, or work that does not end, ends the process at once."""
    give_back_large_blocks()
    # While a thread validates, the loop waits for its turn after each look at its sockets, by default for 5 ms every time.
    sys.setswitchinterval(TURNS_S)
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    def signalled(number: signal.Signals) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()
        overtime = threading.Timer(LEAVE_WITHIN_S, os._exit, (0,))
        overtime.daemon = True
        overtime.start()
        tell(number.name)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signalled, number)
    loop.run_until_complete(work(stop))
    return 0


def _complain(*lines: str) -> int:
    print("\n  ".join((f"datafile-sidecar: {lines[0]}", *lines[1:])), file=sys.stderr)  # noqa: T201
    return 2
