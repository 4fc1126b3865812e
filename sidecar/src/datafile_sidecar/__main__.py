"""Entry point. Sets signal handlers before slow imports: as process 1, Python ignores both signals until then."""

import os
import signal
import sys

LOG_FLUSH_TIMEOUT_S = 0.3


def main() -> None:
    """Run the command line and exit at once, without waiting for threads that hang in the operating system."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: os._exit(128 + received))

    from datafile_sidecar.cli import main as cli
    from datafile_sidecar.observe import log_writer

    status = cli.main(sys.argv[1:])
    log_writer.flush(LOG_FLUSH_TIMEOUT_S)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            status = status or 1
    os._exit(status)


if __name__ == "__main__":
    main()
