"""Keep an Optimizely instance up to date with the datafile that the sidecar publishes.

```python
from datafile_client import OptimizelyWatcher

watcher = OptimizelyWatcher()
watcher.start(timeout=30)
user = watcher.user("user-1")
```
"""

from datafile_client._flag_changes import FlagChanges
from datafile_client._options import EventProcessorOptions, OptimizelyOptions
from datafile_client._status import WatcherStatus
from datafile_client._watcher import OptimizelyWatcher
from datafile_client.errors import (
    DatafileClientError,
    DatafileUnavailableError,
    InvalidDatafileError,
    InvalidOptionError,
)

__all__ = [
    "DatafileClientError",
    "DatafileUnavailableError",
    "EventProcessorOptions",
    "FlagChanges",
    "InvalidDatafileError",
    "InvalidOptionError",
    "OptimizelyOptions",
    "OptimizelyWatcher",
    "WatcherStatus",
]
