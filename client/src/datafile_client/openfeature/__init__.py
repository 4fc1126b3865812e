"""A provider for OpenFeature, so that an app asks for flags by OpenFeature's API alone. Needs `datafile-client[openfeature]`.

```python
from datafile_client import OptimizelyWatcher
from datafile_client.openfeature import OptimizelyProvider
from openfeature import api

api.set_provider_and_wait(OptimizelyProvider(OptimizelyWatcher()))
```
"""

from datafile_client.openfeature._fork_safety import survive_forks
from datafile_client.openfeature._provider import OptimizelyProvider

__all__ = ["OptimizelyProvider"]

survive_forks()
