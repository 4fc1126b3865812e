"""`datafile-sidecar send-webhook`: post one event as Optimizely does, or one of the sidecar's own."""

import argparse
import time
from collections.abc import Mapping

from datafile_sidecar.cli.command import CommandError, decimal_number
from datafile_sidecar.config import settings
from datafile_sidecar.core import webhook

SUMMARY = "post one signed webhook: announce a revision, have it fetched again, or take it back"
_EPILOG = """\
The webhook is signed with the first secret of DATAFILE_WEBHOOK_SECRETS or DATAFILE_WEBHOOK_SECRETS_PATH, posted to this
sidecar (DATAFILE_WEBHOOK_LISTEN), and relayed to its peers. If upstream does not have the announced revision yet, the
sidecars keep fetching for up to 10 minutes.

examples:
  datafile-sidecar send-webhook --sdk-key my-key --refresh
  datafile-sidecar send-webhook --sdk-key my-key --revision 44
  datafile-sidecar send-webhook --sdk-key my-key --withdraw 44"""
_FAR = 100
"""An environment's revisions rise one by one; a number that is higher than this above the known one is rather a mistake."""
_ASK_WITHIN_S = 2.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `send-webhook`."""
    parser.epilog = _EPILOG
    parser.add_argument("--url", help="webhook endpoint to post to instead; it is then not asked what it has")
    parser.add_argument("--sdk-key", required=True, metavar="KEY", help="SDK key whose datafile has changed")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--revision", type=decimal_number, metavar="N", help="announce this revision")
    what.add_argument("--refresh", action="store_true", help="have the datafile fetched now, whatever its revision is")
    what.add_argument(
        "--withdraw", type=decimal_number, metavar="N", help="take back this revision: it was announced by mistake"
    )
    parser.add_argument(
        "--force", action="store_true", help=f"announce a revision that is more than {_FAR} above the known one"
    )
    parser.add_argument(
        "--project-id", type=decimal_number, metavar="N", help="project id; without it, the event fits any project"
    )
    parser.add_argument(
        "--environment", default="Production", metavar="NAME", help="name of the environment (default: %(default)s)"
    )


def run(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Sign and post a webhook as Optimizely does, and explain the answer.

    The exit status is 0 when the sidecar answers 2xx and serves the SDK key, else 1.
    """
    from datafile_sidecar.cli import event_loop
    from datafile_sidecar.cli.simulator.events import signing_secret

    secret = signing_secret(environ)
    if secret is None:
        raise CommandError(
            "no secret to sign with: set DATAFILE_WEBHOOK_SECRETS or DATAFILE_WEBHOOK_SECRETS_PATH", exit_status=2
        )
    if options.url is not None:
        return event_loop.run(send_webhook(options, options.url, secret))
    loaded = settings.load_partial(environ, "webhook_listen", "admin_listen")
    url = f"{_base_url(loaded.webhook_listen, 'DATAFILE_WEBHOOK_LISTEN')}{webhook.PATH}"
    admin_url = _base_url(loaded.admin_listen, "DATAFILE_ADMIN_LISTEN")
    return event_loop.run(send_webhook(options, url, secret, admin_url))


async def send_webhook(options: argparse.Namespace, url: str, secret: bytes, admin_url: str | None = None) -> int:
    """Post an event for one SDK key and print what the answer means. Returns 0 where the sidecar takes it, else 1.

    The URL in the event has no host, so the sidecar fetches from its own upstream, a stand-in or the real CDN.

    Args:
        options: Those of the command.
        url: Where to post it.
        secret: Signs it.
        admin_url: The sidecar's admin port, which is asked first whether the event fits; None asks nothing.

    Raises:
        CommandError: The event does not fit, and was not posted.
    """
    from datafile_sidecar.cli.simulator.events import explain_answer, post, webhook_body

    if admin_url is not None:
        await _check(options, admin_url)
    body = webhook_body(
        options.revision if options.withdraw is None else options.withdraw,
        project_id=options.project_id,
        timestamp=int(time.time()),
        event=webhook.DATAFILE_UPDATED if options.withdraw is None else webhook.REVISION_WITHDRAWN,
        cdn_url=f"/datafiles/{options.sdk_key}.json",
        environment=options.environment,
    )
    answer, explanation = await explain_answer(url, post(url, body, secret))
    print(explanation, flush=True)  # noqa: T201
    return 0 if answer.is_taken and not answer.concerns_no_key else 1


async def _check(options: argparse.Namespace, admin_url: str) -> None:
    """Raise CommandError where the sidecar at this admin port does not serve the key, or has never heard of such a revision."""
    from datafile_sidecar.cli.status_client import Endpoints, StatusClient

    [answer] = await StatusClient(Endpoints((admin_url,))).ask(_ASK_WITHIN_S)
    if answer.status is None:
        return  # it is old, or has only just begun; the answer to the webhook tells the rest
    if (key := answer.status.keys.get(options.sdk_key)) is None:
        served = ", ".join(sorted(answer.status.keys))
        raise CommandError(
            f"the SDK key {options.sdk_key!r} is not served by the sidecar at {admin_url}: it serves {served}",
            exit_status=1,
        )
    known = max(key.revision or 0, key.target_revision or 0)
    if options.revision is not None and known and options.revision > known + _FAR and not options.force:
        raise CommandError(
            f"revision {options.revision} is {options.revision - known:,} above what the sidecar at {admin_url} knows "
            f"({known}), and would be waited for in vain for 10 minutes: add --force if it is meant, or use --refresh",
            exit_status=1,
        )


def _base_url(address: tuple[str, int], variable: str) -> str:
    host, port = address
    if not port:
        raise CommandError(f"{variable} has port 0, so the actual port is unknown: pass --url", exit_status=2)
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
