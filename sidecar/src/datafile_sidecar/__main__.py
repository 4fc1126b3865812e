"""Entry point. Signals get their meaning before anything slow is imported: as process 1, Python ignores them until then."""

import os
import signal
import sys

LAST_LINES_S = 0.3


def main() -> None:
    """Run the command line and leave at once: no thread that hangs in the operating system holds the process back."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: os._exit(128 + received))

    from datafile_sidecar.cli import main as cli
    from datafile_sidecar.observe import log_writer

    status = cli.main(sys.argv[1:])
    log_writer.flush(LAST_LINES_S)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            status = status or 1
    os._exit(status)


if __name__ == "__main__":
    main()
