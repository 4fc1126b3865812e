"""What can go wrong, as one tree.

DatafileClientError
├── DatafileUnavailableError   nothing to decide by (yet)
├── InvalidDatafileError       a file is there, and cannot be used
└── InvalidOptionError         the watcher was asked for something that cannot be (also a ValueError)
"""

import os

_Path = str | os.PathLike[str]


class DatafileClientError(Exception):
    """The base of every error that this package raises."""

    def __str__(self) -> str:
        return ": ".join(map(str, self.args))


class DatafileUnavailableError(DatafileClientError):
    """There is nothing to decide by: no valid datafile came in time, and no fallback helped.

    Raised by `OptimizelyWatcher.start`, and by `optimizely` and `revision` as long as nothing has been loaded.
    """

    def __init__(self, sdk_key: str, path: _Path, reason: str) -> None:
        super().__init__(sdk_key, os.fspath(path), reason)
        self.sdk_key, self.path, self.reason = sdk_key, os.fspath(path), reason

    def __str__(self) -> str:
        return (
            f"No datafile for SDK key {self.sdk_key!r}: {self.reason}. Looked at {self.path}; check that the sidecar runs, "
            "has this SDK key, and that this process sees the directory which it publishes into."
        )


class InvalidDatafileError(DatafileClientError):
    """A datafile could not be read or cannot be decided by. What was loaded before it stays in use."""

    def __init__(self, path: _Path, reason: str) -> None:
        super().__init__(os.fspath(path), reason)
        self.path, self.reason = os.fspath(path), reason


class InvalidOptionError(DatafileClientError, ValueError):
    """An argument or environment variable of the watcher is wrong; raised by its constructor, before anything starts."""

    def __init__(self, option: str, reason: str) -> None:
        super().__init__(option, reason)
        self.option, self.reason = option, reason
