"""`datafile-sidecar status`: show what every sidecar and its workers use, or wait for a revision."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from datafile_sidecar.cli.command import CommandError, decimal_number, seconds
from datafile_sidecar.config import settings

if TYPE_CHECKING:
    from datafile_sidecar.cli.status_bus import BusStatusClient
    from datafile_sidecar.cli.status_client import Endpoints, StatusClient
    from datafile_sidecar.cli.status_receipt import Receipt
    from datafile_sidecar.core.wait_target import WaitTarget

SUMMARY = "show which revision each pod and each worker uses"
_FIELDS = ("sdk_keys", "admin_listen", "webhook_listen", "peers", "bus_url")
_UPSTREAM_FIELDS = ("url_template", "access_tokens_path")
_EPILOG = """\
With DATAFILE_BUS_URL it reads what each pod leaves on the bus, from a sidecar's container or from anywhere else that
reaches the broker; --sdk-key names the key where DATAFILE_SDK_KEYS does not. Without a bus, run it in the container of
a sidecar: it reads the sidecar's settings (DATAFILE_SDK_KEYS, DATAFILE_ADMIN_LISTEN, DATAFILE_WEBHOOK_LISTEN,
DATAFILE_PEERS), and asks the other sidecars at the same admin port as this one. `latest` is the newest revision that
upstream serves, or that any sidecar has or expects; upstream is asked at the start.
Without a bus, pods that complete (Jobs) are not asked: they are not in the peers' Service of the manifests.

examples:
  datafile-sidecar status
  datafile-sidecar status --wait-for-revision latest --timeout 60 --expect 12
  datafile-sidecar status --wait-for-revision 43 --sdk-key KEY --receipt receipt.json
  datafile-sidecar status --url http://127.0.0.1:8088 --json"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `status`."""
    parser.epilog = _EPILOG
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument(
        "--sdk-key", metavar="KEY", help="show this SDK key only; required to wait when there are several"
    )
    parser.add_argument(
        "--url",
        type=_admin_url,
        action="append",
        default=[],
        metavar="URL",
        help="ask this admin port instead of bus and peers; may be repeated",
    )
    parser.add_argument(
        "--wait-for-revision", type=_revision, metavar="N|latest", help="wait until all workers use this revision"
    )
    parser.add_argument(
        "--timeout",
        type=seconds,
        default=30.0,
        metavar="S",
        help="seconds to wait for, whatever hangs; 0 asks once, for at most 2 s (default: %(default)g)",
    )
    parser.add_argument(
        "--expect", type=_count, metavar="N", help="how many sidecars there must be; fewer or more is a failure"
    )
    parser.add_argument(
        "--latest-known",
        action="store_true",
        help="accept what the sidecars know as latest, if upstream can't be asked",
    )
    parser.add_argument(
        "--forget",
        action="append",
        default=[],
        metavar="POD",
        help="with a bus: excuse this pod if it is silent, and remove it after 10 minutes; * and ? stand for any text; "
        "may be repeated",
    )
    parser.add_argument(
        "--excuse-after", type=seconds, metavar="S", help="with a bus: excuse pods that are silent for S seconds"
    )
    parser.add_argument("--receipt", type=Path, metavar="FILE", help="write what was proven to this file, as JSON")
    parser.add_argument("--allow-no-workers", action="store_true", help="accept pods without workers")


def run(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Read the bus, or ask this sidecar and its DATAFILE_PEERS, and show which revision each pod and each worker uses.

    With --wait-for-revision, the exit status is 0 when every worker of every pod has applied that revision or a newer
    one. Otherwise it is 1 and the others are listed. What can't be known counts as not confirmed: a pod that is
    silent or unreachable, a name that does not resolve, addresses that may be missing, workers that can't connect, a
    pod without workers.
    """
    from datafile_sidecar.cli import event_loop, status_output

    asks_upstream = options.wait_for_revision == "latest"
    loaded = settings.load_partial(environ, *_FIELDS, *(_UPSTREAM_FIELDS if asks_upstream else ()))
    target = _wait_target(options, loaded.sdk_keys)
    client = _client(options, loaded)
    receipt = _receipt(options, loaded)
    upstream = None
    if asks_upstream:
        from datafile_sidecar.cli.status_upstream import UpstreamQuestion

        upstream = UpstreamQuestion(loaded, environ, is_required=not options.latest_known)
    output = status_output.Output(options.json, options.sdk_key, receipt)
    return event_loop.run(status_output.ask_and_print(client, target, upstream, options.timeout, output))


def _client(options: argparse.Namespace, loaded: settings.Settings) -> "StatusClient | BusStatusClient":
    if loaded.bus_url and not options.url:
        from datafile_sidecar.bus import BusError, extra
        from datafile_sidecar.cli.status_bus import BusStatusClient
        from datafile_sidecar.core.fleet_roster import Excuses

        try:
            extra.check_installed()
        except BusError as error:
            raise CommandError(str(error), exit_status=1) from error
        sdk_keys = (options.sdk_key,) if options.sdk_key else loaded.sdk_keys
        if not sdk_keys:
            raise CommandError("name the SDK key with --sdk-key or DATAFILE_SDK_KEYS", exit_status=2)
        excuses = Excuses(tuple(options.forget), options.excuse_after)
        return BusStatusClient(loaded.bus_url, sdk_keys, excuses, expected=options.expect)
    from datafile_sidecar.cli.status_client import StatusClient

    if options.forget or options.excuse_after is not None:
        raise CommandError("--forget and --excuse-after are about pods on the bus: set DATAFILE_BUS_URL", exit_status=2)
    return StatusClient(_endpoints(options.url, loaded), expected=options.expect)


def _receipt(options: argparse.Namespace, loaded: settings.Settings) -> "Receipt | None":
    from datafile_sidecar.bus.errors import shown
    from datafile_sidecar.cli.status_receipt import Receipt

    if options.receipt is None:
        return None
    if options.wait_for_revision is None:
        raise CommandError("--receipt is about a revision: add --wait-for-revision", exit_status=2)
    asks_bus = loaded.bus_url and not options.url
    source = f"the bus at {shown(loaded.bus_url or '')}" if asks_bus else "the admin ports of the sidecars"
    receipt = Receipt(options.receipt, source)
    receipt.clear()
    return receipt


def _endpoints(urls: Sequence[str], loaded: settings.Settings) -> "Endpoints":
    from datafile_sidecar.cli.status_client import Endpoints

    if urls:
        return Endpoints(tuple(urls))
    host, port = loaded.admin_listen
    if not port:
        raise CommandError(
            "DATAFILE_ADMIN_LISTEN has port 0, so the actual port is unknown: pass the URL with --url", exit_status=2
        )
    return Endpoints.of_fleet(host, port, loaded.peers, loaded.webhook_listen.port)


def _wait_target(options: argparse.Namespace, sdk_keys: Sequence[str]) -> "WaitTarget | None":
    from datafile_sidecar.core.wait_target import WaitTarget

    if options.wait_for_revision is None:
        return None
    sdk_key = options.sdk_key or (sdk_keys[0] if len(sdk_keys) == 1 else None)
    if sdk_key is None:
        choices = f": {', '.join(sdk_keys)}" if sdk_keys else ""
        raise CommandError(f"specify the SDK key to wait for with --sdk-key{choices}", exit_status=2)
    return WaitTarget(sdk_key, options.wait_for_revision, workers_required=not options.allow_no_workers)


def _admin_url(text: str) -> str:
    return text if "://" in text else f"http://{text}"


def _revision(text: str) -> int | str:
    if text == "latest":
        return text
    try:
        return decimal_number(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a revision (a decimal number) or 'latest'") from None


def _count(text: str) -> int:
    if (number := decimal_number(text)) < 1:
        raise argparse.ArgumentTypeError("there is at least one sidecar")
    return number
