"""`datafile-sidecar check`: check everything that a sidecar needs, before it is needed."""

import argparse
from collections.abc import Mapping

SUMMARY = "check the set-up and show how to fix problems"
_EPILOG = """\
Takes a few seconds when upstream, the bus or peers don't answer. Set NO_COLOR to turn colours off.

example:
  kubectl exec POD -c datafile-sidecar -- datafile-sidecar check"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `check`."""
    parser.epilog = _EPILOG
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def run(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Check settings, secrets, directory, upstream, bus and peers, and show how to fix problems. Changes nothing.

    Run it where the sidecar runs, with the same environment; the sidecar may be running. The exit status is 0 when
    everything works, 1 when there are problems, 2 when the sidecar would refuse to start.
    """
    from datafile_sidecar.cli import event_loop
    from datafile_sidecar.cli.checks.runner import check_and_print

    return event_loop.run(check_and_print(environ, options.json))
