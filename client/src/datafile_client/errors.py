"""The errors that this package raises, as one tree.

DatafileClientError
├── DatafileUnavailableError   no datafile is loaded (yet)
├── InvalidDatafileError       a file is there but cannot be used
└── InvalidOptionError         an argument or setting is wrong (also a ValueError)
"""

import os

_Path = str | os.PathLike[str]


class DatafileClientError(Exception):
    """The base of every error that this package raises."""

    def __str__(self) -> str:
        return ": ".join(map(str, self.args))


class DatafileUnavailableError(DatafileClientError):
    """No datafile is loaded: no valid one came in time, and there is no usable fallback.

    Raised by `OptimizelyWatcher.start`, and by `optimizely` and `revision` until a datafile has been loaded.

    Attributes:
        sdk_key: the watcher's SDK key.
        path: the file that the watcher looks for.
        reason: why it is not loaded.
    """

    def __init__(self, sdk_key: str, path: _Path, reason: str) -> None:
        super().__init__(sdk_key, os.fspath(path), reason)
        self.sdk_key: str = sdk_key
        self.path: str = os.fspath(path)
        self.reason: str = reason

    def __str__(self) -> str:
        return (
            f"No datafile for SDK key {self.sdk_key!r}: {self.reason}. Looked at {self.path}; check that the sidecar is running, "
            "that it has this SDK key, and that this process sees the directory into which it publishes."
        )


class InvalidDatafileError(DatafileClientError):
    """A datafile could not be read or cannot be used. The one that was loaded before stays in use.

    Attributes:
        path: the file.
        reason: what is wrong with it.
    """

    def __init__(self, path: _Path, reason: str) -> None:
        super().__init__(os.fspath(path), reason)
        self.path: str = os.fspath(path)
        self.reason: str = reason


class InvalidOptionError(DatafileClientError, ValueError):
    """An argument or environment variable of the watcher is wrong. The constructor raises it, before anything starts.

    Attributes:
        option: the name of the argument or environment variable.
        reason: what is wrong with it.
    """

    def __init__(self, option: str, reason: str) -> None:
        super().__init__(option, reason)
        self.option: str = option
        self.reason: str = reason
