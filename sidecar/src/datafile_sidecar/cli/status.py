"""`datafile-sidecar status`: show what every sidecar and its workers use, or wait for a revision."""

import argparse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from datafile_sidecar.cli.command import CommandError, decimal_number, seconds
from datafile_sidecar.config import settings

if TYPE_CHECKING:
    from datafile_sidecar.cli.status_client import Endpoints
    from datafile_sidecar.core.wait_target import WaitTarget

SUMMARY = "show which revision each pod and each worker uses"
_FIELDS = ("sdk_keys", "admin_listen", "webhook_listen", "peers", "bus_url")
_UPSTREAM_FIELDS = ("url_template", "access_tokens_path")
_EPILOG = """\
Run it in the container of a sidecar: it reads the sidecar's settings (DATAFILE_SDK_KEYS, DATAFILE_ADMIN_LISTEN,
DATAFILE_WEBHOOK_LISTEN, DATAFILE_PEERS). The other sidecars are asked at the same admin port as this one. `latest` is
the newest revision that upstream serves, or that any sidecar has or expects; upstream is asked at the start.
In Kubernetes, pods that complete (Jobs) are not in the peers' Service of the manifests, so they are not asked.

examples:
  datafile-sidecar status
  datafile-sidecar status --wait-for-revision latest --timeout 60 --expect 12
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
        help="ask this admin port instead; may be repeated",
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
    parser.add_argument("--allow-no-workers", action="store_true", help="accept pods without workers")


def run(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Ask this sidecar and its DATAFILE_PEERS, and show which revision each pod and each worker uses.

    With --wait-for-revision, the exit status is 0 when every worker of every pod has applied that revision or a newer
    one. Otherwise it is 1 and the others are listed. What can't be known counts as not confirmed: a pod that is
    unreachable, a name that does not resolve, addresses that may be missing, workers that can't connect, a pod without
    workers.
    """
    from datafile_sidecar.cli import event_loop, status_output
    from datafile_sidecar.cli.status_client import StatusClient

    asks_upstream = options.wait_for_revision == "latest"
    loaded = settings.load_partial(environ, *_FIELDS, *(_UPSTREAM_FIELDS if asks_upstream else ()))
    client = StatusClient(_endpoints(options.url, loaded), expected=options.expect)
    target = _wait_target(options, loaded.sdk_keys)
    upstream = None
    if asks_upstream:
        from datafile_sidecar.cli.status_upstream import UpstreamQuestion

        upstream = UpstreamQuestion(loaded, environ, is_required=not options.latest_known)
    return event_loop.run(
        status_output.ask_and_print(client, target, upstream, options.sdk_key, options.timeout, options.json)
    )


def _endpoints(urls: Sequence[str], loaded: settings.Settings) -> "Endpoints":
    from datafile_sidecar.cli.status_client import Endpoints

    if urls:
        return Endpoints(tuple(urls))
    host, port = loaded.admin_listen
    if not port:
        raise CommandError(
            "DATAFILE_ADMIN_LISTEN has port 0, so the actual port is unknown: pass the URL with --url", exit_status=2
        )
    return Endpoints.of_fleet(host, port, loaded.peers, loaded.webhook_listen.port, has_bus=bool(loaded.bus_url))


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
