"""`datafile-sidecar diff`: say in words what changes from one datafile to another."""

import argparse
from collections.abc import Mapping
from pathlib import Path

from datafile_sidecar.cli.command import CommandError

SUMMARY = "say what changes from one datafile to another"
_EPILOG = """\
A name without words for its change is named with the fields that differ. `-` reads standard input.

examples:
  datafile-sidecar diff before.json after.json
  curl -s https://cdn.optimizely.com/datafiles/my-key.json | datafile-sidecar diff /var/run/datafile/my-key.json -"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `diff`."""
    parser.epilog = _EPILOG
    parser.add_argument("old", metavar="OLD", help="the datafile before")
    parser.add_argument("new", metavar="NEW", help="the datafile after")
    parser.add_argument("--json", action="store_true", help="print a JSON list of lines instead of text")


def run(options: argparse.Namespace, _: Mapping[str, str]) -> int:
    """Say in words what changes from one datafile to another: flags, rules, traffic, audiences, holdouts, settings.

    Nothing is printed where no decision can change. The exit status is 0 when both files are valid datafiles, whether
    they differ or not, else 1.
    """
    import msgspec

    from datafile_sidecar.core.difference import difference

    lines = difference(_datafile(options.old), _datafile(options.new))
    for line in [msgspec.json.encode(lines).decode()] if options.json else lines:
        print(line)  # noqa: T201
    return 0


def _datafile(name: str) -> bytes:
    """Return the bytes of a valid datafile, of whichever SDK key."""
    import sys

    from datafile_sidecar.core import datafile
    from datafile_sidecar.core.datafile import InvalidDatafileError

    try:
        with open(sys.stdin.fileno(), "rb", closefd=False) if name == "-" else Path(name).open("rb") as file:
            body = file.read(datafile.MAX_BYTES + 1)
        datafile.parse(body, None)
    except OSError as error:
        raise CommandError(f"{name} can't be read: {error.strerror}", exit_status=1) from None
    except InvalidDatafileError as error:
        raise CommandError(f"{name} is not a datafile: {error.reason}", exit_status=1) from None
    return body
