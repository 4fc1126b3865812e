"""What an app's own tests need: `Flags`, which sets flags for a watcher in memory, and datafiles to write or to serve.

The pytest plugin gives each test a `Flags` of its own, as the fixture `flags`.
"""

from datafile_client.testing._datafile import make_datafile, write_datafile
from datafile_client.testing._flags import Flags

__all__ = ["Flags", "make_datafile", "write_datafile"]
