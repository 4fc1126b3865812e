"""Keep an Optimizely instance up to date with the datafile that the sidecar publishes.

```python
from datafile_client import OptimizelyWatcher

watcher = OptimizelyWatcher()
watcher.start(timeout=30)
user = watcher.optimizely.create_user_context("user-1")
```
"""

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
    "InvalidDatafileError",
    "InvalidOptionError",
    "OptimizelyWatcher",
    "WatcherStatus",
]
