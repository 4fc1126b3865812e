"""`datafile-sidecar run`: the daemon."""

import argparse
import shutil
import textwrap
from collections.abc import Mapping

from datafile_sidecar.cli.command import CommandError
from datafile_sidecar.config import settings
from datafile_sidecar.config.credentials import CredentialsError

SUMMARY = "run the daemon (the default command)"
_MAX_WIDTH = 110


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`run` has no options: list its environment variables instead."""
    parser.epilog = _environment_help()


def run(_: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Receive webhooks, poll upstream and publish datafiles into DATAFILE_DIR, until SIGTERM or SIGINT."""
    from datafile_sidecar.bus import BusError
    from datafile_sidecar.cli import event_loop, startup
    from datafile_sidecar.cli.daemon import Daemon
    from datafile_sidecar.network.server import ListenError

    loaded, telemetry, volume = startup.start(environ)
    try:
        daemon = Daemon(loaded, environ, volume, telemetry)
        event_loop.run_until_signalled(daemon.run, telemetry.sidecar_stopping)
    except (ListenError, BusError) as error:
        raise CommandError(str(error), exit_status=1) from error
    except CredentialsError:
        raise
    except Exception as error:
        telemetry.sidecar_failed(error)
        return 1
    return 0


def _environment_help() -> str:
    """Format the variables for a terminal: name, then meaning and default without Markdown."""
    width = min(shutil.get_terminal_size().columns, _MAX_WIDTH)
    indent = " " * 6
    lines = ["environment:"]
    for variable in settings.VARIABLES:
        default = {"–": "", "required": " Required."}.get(variable.default, f" Default: {variable.default}.")
        text = f"{variable.meaning}.{default}".replace("`", "")
        lines.append(f"  {variable.name}")
        lines.append(textwrap.fill(text, width, initial_indent=indent, subsequent_indent=indent))
    return "\n".join(lines)
