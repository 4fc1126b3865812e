"""What `run` and `fetch` open first: settings, log and metrics, and the volume."""

import sys
import time
from collections.abc import Mapping

from datafile_sidecar.cli.command import CommandError
from datafile_sidecar.config import settings
from datafile_sidecar.config.settings import Settings
from datafile_sidecar.observe import logs
from datafile_sidecar.observe.log_writer import LogWriter
from datafile_sidecar.observe.telemetry import Telemetry
from datafile_sidecar.volume.directory import Volume, VolumeError


def start(environ: Mapping[str, str]) -> tuple[Settings, Telemetry, Volume]:
    """Load the settings, open the log, and lock DATAFILE_DIR until the process ends. Raises SettingsError and CommandError."""
    loaded = settings.load(environ)
    lines = LogWriter(sys.stderr)
    logger = logs.configure(loaded.log_level, loaded.log_format, lines)
    telemetry = Telemetry(logger, time.monotonic, lines.take_dropped)
    for name, nearest in settings.unknown(environ).items():
        telemetry.setting_ignored(name, nearest)
    try:
        volume = Volume(loaded.dir)
    except VolumeError as error:
        raise CommandError(str(error), exit_status=1) from error
    if volume.created:
        telemetry.volume_created(str(loaded.dir))
    return loaded, telemetry, volume
