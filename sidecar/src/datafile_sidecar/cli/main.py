"""The command line: parse the arguments, run one command, and turn errors into exit statuses.

The modules of the commands are light; what a command needs is imported when it runs.
"""

import argparse
import inspect
import os
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version

from datafile_sidecar.cli import check, diff, fetch, flip, run, send_webhook, simulate, status
from datafile_sidecar.cli.command import Command, CommandError
from datafile_sidecar.config import settings
from datafile_sidecar.config.credentials import CredentialsError
from datafile_sidecar.config.settings import SettingsError

COMMANDS: Mapping[str, Command] = {
    "run": run,
    "fetch": fetch,
    "check": check,
    "status": status,
    "diff": diff,
    "simulate": simulate,
    "flip": flip,
    "send-webhook": send_webhook,
}

_DESCRIPTION = """\
Keeps Optimizely's datafile fresh on a volume that the containers of a pod share.

Settings come from environment variables: `datafile-sidecar run --help` lists them."""
_EPILOG = """\
first steps:
  datafile-sidecar check                    check that the sidecar has everything it needs
  datafile-sidecar run                      start it
  datafile-sidecar status                   show which revision each pod and each worker uses

exit status: 0: success, 1: failure, 2: invalid arguments or settings"""


def main(argv: Sequence[str], environ: Mapping[str, str] = os.environ) -> int:
    """Run one command. Returns its exit status. 0: success, 1: failure, 2: invalid arguments or settings."""
    options = _parser().parse_args(argv or ["run"])
    try:
        status: int = options.run(options, environ)
    except SettingsError as error:
        return _fail(2, "invalid settings:", *error.problems, *_unknown_settings(environ))
    except CredentialsError as error:
        return _fail(2, str(error))
    except CommandError as error:
        return _fail(error.exit_status, str(error))
    except BrokenPipeError:
        return 1
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="datafile-sidecar", description=_DESCRIPTION, epilog=_EPILOG, formatter_class=_formatter
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('datafile-sidecar')}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        subparser = subparsers.add_parser(
            name, help=command.SUMMARY, description=inspect.getdoc(command.run), formatter_class=_formatter
        )
        command.add_arguments(subparser)
        subparser.set_defaults(run=command.run)
    return parser


def _formatter(prog: str) -> argparse.HelpFormatter:
    return argparse.RawDescriptionHelpFormatter(prog, max_help_position=32)


def _unknown_settings(environ: Mapping[str, str]) -> list[str]:
    return [
        f"{name} is not a setting" + (f"; did you mean {nearest}?" if nearest else "")
        for name, nearest in settings.unknown(environ).items()
    ]


def _fail(exit_status: int, *lines: str) -> int:
    print("datafile-sidecar:", "\n  ".join(lines), file=sys.stderr)  # noqa: T201
    return exit_status
