"""`datafile-sidecar simulate`: stand in for Optimizely during local work."""

import argparse
from collections.abc import Mapping
from pathlib import Path

from datafile_sidecar.cli.command import seconds

SUMMARY = "simulate Optimizely, for local work"
_EPILOG = """\
Webhooks are signed with the first secret of DATAFILE_WEBHOOK_SECRETS or DATAFILE_WEBHOOK_SECRETS_PATH. While it runs,
`datafile-sidecar flip FLAG on|off` switches a flag of what is served, without an edit.

example:
  datafile-sidecar simulate --datafile flags.json --sdk-key my-key \\
      --webhook-url http://127.0.0.1:8089/webhooks/optimizely"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `simulate`."""
    parser.epilog = _EPILOG
    parser.add_argument(
        "--datafile", type=Path, required=True, metavar="FILE", help="datafile to serve; edit it to publish a revision"
    )
    parser.add_argument("--sdk-key", required=True, metavar="KEY", help="SDK key to serve it for")
    parser.add_argument(
        "--listen", default="127.0.0.1:8090", metavar="HOST:PORT", help="address to serve on (default: %(default)s)"
    )
    parser.add_argument("--webhook-url", metavar="URL", help="URL to post webhooks to; without it, none are sent")
    parser.add_argument(
        "--state",
        type=Path,
        metavar="FILE",
        help="keep what is served in this file, with its revision, and go on from there after a restart",
    )
    parser.add_argument(
        "--lag",
        type=seconds,
        default=0.0,
        metavar="S",
        help="seconds between a webhook and the new revision on the CDN (default: %(default)g)",
    )


def run(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Serve a local datafile as Optimizely does. After each change, raise its revision and post a signed webhook."""
    from datafile_sidecar.cli import event_loop
    from datafile_sidecar.cli.simulator.events import signing_secret
    from datafile_sidecar.cli.simulator.serve_file import serve_file

    return event_loop.run(
        serve_file(
            datafile=options.datafile,
            sdk_key=options.sdk_key,
            listen=options.listen,
            webhook_url=options.webhook_url,
            secret=signing_secret(environ),
            lag_s=options.lag,
            state=options.state,
        )
    )
