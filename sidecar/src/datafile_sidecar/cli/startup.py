"""What `run` and `fetch` open first: log and metrics, and the volume."""

import sys
import time
from collections.abc import Mapping

from datafile_sidecar.cli.errors import CommandError
from datafile_sidecar.config import settings
from datafile_sidecar.config.settings import Settings
from datafile_sidecar.observe import logs
from datafile_sidecar.observe.log_writer import LogWriter
from datafile_sidecar.observe.telemetry import Telemetry
from datafile_sidecar.volume.directory import Volume, VolumeError


def open_telemetry(loaded: Settings, environ: Mapping[str, str]) -> Telemetry:
    """Open the log and the metrics, and log unknown settings."""
    lines = LogWriter(sys.stderr)
    logger = logs.configure(loaded.log_level, loaded.log_format, lines)
    telemetry = Telemetry(logger, time.monotonic, lines.take_dropped)
    for name, nearest in settings.unknown(environ).items():
        telemetry.setting_ignored(name, nearest)
    return telemetry


def open_volume(loaded: Settings, telemetry: Telemetry) -> Volume:
    """Open and lock DATAFILE_DIR until the process ends. Raises CommandError."""
    try:
        volume = Volume(loaded.dir)
    except VolumeError as error:
        raise CommandError(str(error), exit_status=1) from error
    if volume.created:
        telemetry.volume_created(str(loaded.dir))
    return volume
