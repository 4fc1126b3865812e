"""Validation of a datafile: every supported SDK can load what `parse` accepts."""

from datafile_sidecar.core.datafile.errors import InvalidDatafileError
from datafile_sidecar.core.datafile.parser import MAX_BYTES, Datafile, parse

__all__ = ["Datafile", "InvalidDatafileError", "MAX_BYTES", "parse"]
