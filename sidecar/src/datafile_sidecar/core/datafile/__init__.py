"""Validation of a datafile: what `parse` lets through, every supported SDK takes."""

from datafile_sidecar.core.datafile.datafile import MAX_BYTES, Datafile, parse
from datafile_sidecar.core.datafile.errors import InvalidDatafileError

__all__ = ["Datafile", "InvalidDatafileError", "MAX_BYTES", "parse"]
