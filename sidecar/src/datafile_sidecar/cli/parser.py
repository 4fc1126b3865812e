"""The command line's words: every command, its options, and the help that a person reads."""

import argparse
import inspect
import math
import shutil
import textwrap
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from pathlib import Path

Command = Callable[[argparse.Namespace, Mapping[str, str]], int]

_ABOUT = """
Keeps Optimizely's datafile fresh on a volume that the containers of a pod share.

Settings come from the environment: `datafile-sidecar run --help` lists them all.
"""
_FIRST_STEPS = """
first steps:
  datafile-sidecar check                    is everything there that a sidecar needs?
  datafile-sidecar run                      begin
  datafile-sidecar status                   who decides by which revision?

exit status: 0 it did its work, 1 it could not, 2 arguments or settings are wrong
"""
_FETCH = """
Reads what `run` reads. A failed fetch is tried again until the time is over, with growing pauses; one that upstream
refuses is not. It does not run beside a sidecar, which holds the directory.

examples:
  datafile-sidecar fetch --timeout 60             in a cron job
  datafile-sidecar fetch --allow-stale            in an init container: start in an outage, too
"""
_CHECK = """
Takes some seconds where upstream, the bus or peers don't answer. NO_COLOR turns colours off.

example:
  kubectl exec POD -c datafile-sidecar -- datafile-sidecar check
"""
_SIGNED = "Webhooks are signed with the first secret of DATAFILE_WEBHOOK_SECRETS or DATAFILE_WEBHOOK_SECRETS_PATH."
_SIMULATE = f"""
{_SIGNED}

example:
  datafile-sidecar simulate --datafile flags.json --sdk-key my-key \\
      --webhook-url http://127.0.0.1:8089/webhooks/optimizely
"""
_SEND = f"""
{_SIGNED}
The sidecar goes on asking upstream for the revision, for 10 minutes if need be.

example:
  datafile-sidecar send-webhook --sdk-key my-key --revision 44
"""
_STATUS = """
Reads DATAFILE_ADMIN_LISTEN, DATAFILE_PEERS and DATAFILE_SDK_KEYS: run it in a sidecar's container. All sidecars are
asked at this one's admin port. `latest` is the newest revision that any of them has or waits for.

examples:
  datafile-sidecar status
  datafile-sidecar status --wait-for-revision latest --timeout 60
  datafile-sidecar status --url http://127.0.0.1:8088 --json
"""


def parser(commands: Mapping[str, Command], variables: Iterable[tuple[str, str, str]]) -> argparse.ArgumentParser:
    """The parser; `command` of what it gives is the function to call, whose docstring is its help.

    `variables` are the environment's: name, meaning and default.
    """
    words = argparse.ArgumentParser(prog="datafile-sidecar", formatter_class=_formatter, epilog=_FIRST_STEPS.strip())
    words.description = _ABOUT.strip()
    words.add_argument("--version", action="version", version=f"%(prog)s {version('datafile-sidecar')}")
    room = words.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(name: str, summary: str, epilog: str) -> argparse.ArgumentParser:
        description = inspect.getdoc(commands[name])
        command: argparse.ArgumentParser = room.add_parser(
            name, help=summary, description=description, epilog=epilog.strip(), formatter_class=_formatter
        )
        command.set_defaults(command=commands[name])
        return command

    add("run", "the daemon; also what runs when no command is given", _environment(variables))
    _fetch(add("fetch", "fetch and publish once, and end", _FETCH))
    _check(add("check", "what works, what does not, and what to do about it", _CHECK))
    _status(add("status", "which revision every pod and every worker decides by", _STATUS))
    _simulate(add("simulate", "a stand-in for Optimizely, for local work", _SIMULATE))
    _send_webhook(add("send-webhook", "post one signed webhook, as a test", _SEND))
    return words


def _fetch(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--timeout", type=_seconds, default=30.0, metavar="S", help="for how many seconds to try (%(default)g)"
    )
    command.add_argument("--allow-stale", action="store_true", help="let an unconfirmed datafile on the volume do")


def _check(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="print JSON instead of text")


def _status(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="print JSON instead of a table")
    command.add_argument("--sdk-key", metavar="KEY", help="only this SDK key; needed to wait when there are several")
    command.add_argument(
        "--url",
        type=_admin_url,
        action="append",
        default=[],
        metavar="URL",
        help="ask this admin port instead; may be repeated",
    )
    command.add_argument(
        "--wait-for-revision", type=_revision, metavar="N|latest", help="wait until everybody has applied it"
    )
    command.add_argument(
        "--timeout", type=_seconds, default=30.0, metavar="S", help="for how many seconds to wait (%(default)g)"
    )
    command.add_argument("--allow-no-workers", action="store_true", help="let a pod without workers count as done")


def _simulate(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--datafile", type=Path, required=True, metavar="FILE", help="the datafile to serve; edit it to publish"
    )
    command.add_argument("--sdk-key", required=True, metavar="KEY", help="the SDK key to serve it under")
    command.add_argument(
        "--listen", default="127.0.0.1:8090", metavar="HOST:PORT", help="where to serve it (%(default)s)"
    )
    command.add_argument("--webhook-url", metavar="URL", help="where to post webhooks; without it, none are sent")
    command.add_argument(
        "--lag",
        type=_seconds,
        default=0.0,
        metavar="S",
        help="serve a new revision that long after its webhook (%(default)g)",
    )


def _send_webhook(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--url", default="http://127.0.0.1:8089/webhooks/optimizely", help="the endpoint (%(default)s)"
    )
    command.add_argument("--sdk-key", required=True, metavar="KEY", help="the SDK key whose datafile changed")
    command.add_argument("--revision", type=_number, required=True, metavar="N", help="the revision to announce")
    command.add_argument(
        "--project-id", type=_number, metavar="N", help="the project's id; without it, the event fits any project"
    )
    command.add_argument(
        "--environment", default="Production", metavar="NAME", help="the environment's name (%(default)s)"
    )


def _environment(variables: Iterable[tuple[str, str, str]]) -> str:
    """The variables as a list for a terminal, made from what the documents say in Markdown."""
    width = min(shutil.get_terminal_size().columns, 110)
    lines = ["environment:"]
    for name, meaning, default in variables:
        said = {"–": "", "required": " Required."}.get(default, f" Default: {default}.")
        indent = " " * 6
        lines.append(f"  {name}")
        lines.append(
            textwrap.fill(f"{meaning}.{said}".replace("`", ""), width, initial_indent=indent, subsequent_indent=indent)
        )
    return "\n".join(lines)


def _formatter(prog: str) -> argparse.HelpFormatter:
    return argparse.RawDescriptionHelpFormatter(prog, max_help_position=32)


def _admin_url(text: str) -> str:
    return text if "://" in text else f"http://{text}"


def _revision(text: str) -> int | str:
    if text == "latest":
        return text
    try:
        return _number(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a revision, a decimal number, nor 'latest'") from None


def _number(text: str) -> int:
    if text.isascii() and text.isdecimal() and len(text) < 19:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is no decimal number")


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")
    return value
