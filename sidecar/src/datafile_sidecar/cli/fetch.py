"""`datafile-sidecar fetch`: fetch and publish once."""

import argparse
from collections.abc import Mapping

from datafile_sidecar.cli.command import seconds

SUMMARY = "fetch and publish once, then exit"
_EPILOG = """\
Uses the same settings as `run`. Failed fetches are retried with growing pauses until the timeout; a fetch that
upstream refuses (for example 403) is not retried. It can't run beside a sidecar, which locks the directory.

examples:
  datafile-sidecar fetch --timeout 60             in a cron job
  datafile-sidecar fetch --allow-stale            in an init container: start even while upstream is down"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `fetch`."""
    parser.epilog = _EPILOG
    parser.add_argument(
        "--timeout", type=seconds, default=30.0, metavar="S", help="seconds to retry for (default: %(default)g)"
    )
    parser.add_argument("--allow-stale", action="store_true", help="accept a datafile that upstream has not confirmed")


def run(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Fetch the datafile of each SDK key, validate it, publish it into DATAFILE_DIR, and exit.

    For an init container or a cron job. The exit status is 0 when upstream has confirmed the datafile on the volume
    for every key, else 1, with the reason. With --allow-stale it is also 0 when every key has a valid datafile from
    before or from DATAFILE_BOOTSTRAP_DIR.
    """
    from datafile_sidecar.cli import event_loop, startup
    from datafile_sidecar.cli.fetch_loop import fetch_and_print
    from datafile_sidecar.config.credentials import Tokens

    loaded, telemetry, volume = startup.start(environ)
    tokens = Tokens(loaded.access_tokens_path, loaded.sdk_keys)
    work = fetch_and_print(
        loaded, environ, tokens, volume, telemetry, timeout_s=options.timeout, allow_stale=options.allow_stale
    )
    return event_loop.run(work)
