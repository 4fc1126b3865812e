"""`datafile-sidecar send-webhook`: post one test event as Optimizely does."""

import argparse
import time
from collections.abc import Mapping

from datafile_sidecar.cli.command import CommandError, decimal_number

SUMMARY = "post one signed webhook, for testing"
_EPILOG = """\
The webhook is signed with the first secret of DATAFILE_WEBHOOK_SECRETS or DATAFILE_WEBHOOK_SECRETS_PATH. If upstream
does not have the announced revision yet, the sidecar keeps fetching for up to 10 minutes.

example:
  datafile-sidecar send-webhook --sdk-key my-key --revision 44"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `send-webhook`."""
    parser.epilog = _EPILOG
    parser.add_argument(
        "--url",
        default="http://127.0.0.1:8089/webhooks/optimizely",
        help="webhook endpoint of the sidecar (default: %(default)s)",
    )
    parser.add_argument("--sdk-key", required=True, metavar="KEY", help="SDK key whose datafile has changed")
    parser.add_argument("--revision", type=decimal_number, required=True, metavar="N", help="revision to announce")
    parser.add_argument(
        "--project-id", type=decimal_number, metavar="N", help="project id; without it, the event fits any project"
    )
    parser.add_argument(
        "--environment", default="Production", metavar="NAME", help="name of the environment (default: %(default)s)"
    )


def run(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Sign and post a webhook as Optimizely does, and explain the answer.

    The exit status is 0 when the sidecar answers 2xx, else 1.
    """
    from datafile_sidecar.cli import event_loop
    from datafile_sidecar.cli.simulator.events import signing_secret

    secret = signing_secret(environ)
    if secret is None:
        raise CommandError(
            "no secret to sign with: set DATAFILE_WEBHOOK_SECRETS or DATAFILE_WEBHOOK_SECRETS_PATH", exit_status=2
        )
    return event_loop.run(send_webhook(options, secret))


async def send_webhook(options: argparse.Namespace, secret: bytes) -> int:
    """Post a test event for one SDK key and print what the answer means. Returns 0 for 2xx, else 1.

    The URL in the event has no host, so the sidecar fetches from its own upstream, a stand-in or the real CDN.
    """
    from datafile_sidecar.cli.simulator.events import explain_answer, post, webhook_body

    body = webhook_body(
        options.revision,
        project_id=options.project_id,
        timestamp=int(time.time()),
        cdn_url=f"/datafiles/{options.sdk_key}.json",
        environment=options.environment,
    )
    status, explanation = await explain_answer(options.url, post(options.url, body, secret))
    print(explanation, flush=True)  # noqa: T201
    return 0 if 200 <= status < 300 else 1
