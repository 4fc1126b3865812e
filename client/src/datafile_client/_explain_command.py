"""`python -m datafile_client explain`: the arguments, and what is printed."""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from datafile_client._datafile_reader import DatafileReader, FileContent, read_file
from datafile_client._explanation import Explanation, explain
from datafile_client._options import choose_sdk_key
from datafile_client.errors import InvalidDatafileError, InvalidOptionError

_MAX_TEXT = 4000
_DESCRIPTION = """\
Decide about a flag for a user, and say which rule decides and why, in the words of the SDK. Run it in the app's
container: it reads the datafile that the sidecar has published. It changes nothing and asks no server."""
_EPILOG = """\
The exit status is 0 when there was a decision, 1 when the datafile can't be used or has no such flag, 2 for invalid
arguments.

examples:
  python -m datafile_client explain checkout user-1 --attribute plan=gold --attribute age=18
  python -m datafile_client explain checkout user-1 --against yesterday.json"""


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run the command. Returns its exit status."""
    options = _parser().parse_args(argv)
    try:
        contents = [_content(options, environ), *([read_file(options.against)] if options.against else [])]
        explanations = [
            explain(one, options.flag, options.user, dict(options.attribute), options.segment) for one in contents
        ]
    except InvalidOptionError as error:
        return _fail(2, f"{error}; or name a file with --datafile")
    except InvalidDatafileError as error:
        return _fail(1, str(error))
    for line in _lines(explanations, options):
        print(_printable(line))  # noqa: T201
    return 0 if explanations[0].is_known else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m datafile_client", description="What the datafile decides.")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    command = commands.add_parser(
        "explain",
        help="say why a user gets a decision",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("flag", metavar="FLAG", help="the flag's key")
    command.add_argument("user", metavar="USER", help="the user's id")
    command.add_argument(
        "--attribute",
        type=_attribute,
        action="append",
        default=[],
        metavar="K=V",
        help='an attribute of the user: a number, true, false or null, else text ("18" in quotes is text); may be repeated',
    )
    command.add_argument(
        "--segment", action="append", metavar="S", help="a segment of ODP that the user is in; may be repeated"
    )
    command.add_argument("--datafile", type=Path, metavar="FILE", help="decide by this file")
    command.add_argument("--against", type=Path, metavar="FILE", help="decide by this file, too, and compare")
    command.add_argument("--sdk-key", metavar="KEY", help="which datafile, where DATAFILE_SDK_KEYS names several")
    command.add_argument(
        "--verbose", action="store_true", help="also print what the SDK logs, with the values that audiences ask for"
    )
    return parser


def _attribute(text: str) -> tuple[str, Any]:
    key, separator, value = text.partition("=")
    if not key or not separator:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    try:
        parsed = json.loads(value)
    except ValueError:
        return key, value
    return key, value if isinstance(parsed, list | dict) else parsed


def _content(options: argparse.Namespace, environ: Mapping[str, str]) -> FileContent:
    if options.datafile is not None:
        return read_file(options.datafile)
    directory = Path(environ.get("DATAFILE_DIR") or "/var/run/datafile")
    content = DatafileReader(directory, choose_sdk_key(options.sdk_key, environ)).read_if_changed()
    if content is None:
        raise AssertionError("a new reader has read nothing")
    return content


def _lines(explanations: Sequence[Explanation], options: argparse.Namespace) -> Iterator[str]:
    for one in explanations:
        yield from _decision(one, options)
        yield "because:"
        yield from (f"  {reason}" for reason in one.reasons or ["nothing else decides about it"])
        if options.verbose:
            yield "log:"
            yield from (f"  {line}" for line in one.log)
        yield ""
    if len(explanations) == 2:
        is_same = explanations[0].decided == explanations[1].decided
        yield f"Both datafiles decide {'the same' if is_same else 'otherwise'}."
    for what in dict.fromkeys(what for one in explanations for what in one.not_asked):
        yield f"Not asked: {what}."


def _decision(one: Explanation, options: argparse.Namespace) -> Iterator[str]:
    yield f"{one.path}, revision {one.revision}:"
    if not one.is_known:
        yield f"There is no flag {options.flag!r}: the app gets off."
        return
    variation = "no variation" if one.variation is None else f"variation {one.variation!r}"
    by = "by no rule" if one.rule is None else f"by rule {one.rule!r}"
    yield f"{options.flag} is {'on' if one.enabled else 'off'} for {options.user}: {variation}, {by}"
    yield from (f"  {name} = {json.dumps(value, ensure_ascii=False)}" for name, value in one.variables.items())


def _printable(text: str) -> str:
    """Shorten a text from outside, and escape what could move the cursor or break a line."""
    short = text if len(text) <= _MAX_TEXT else f"{text[: _MAX_TEXT - 1]}…"
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in short)


def _fail(exit_status: int, message: str) -> int:
    print("datafile_client:", _printable(message), file=sys.stderr)  # noqa: T201
    return exit_status
