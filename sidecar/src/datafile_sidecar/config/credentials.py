"""Webhook secrets and access tokens: given once, or mounted as files and read again while the sidecar runs.

All of it blocks, as long as the mount does; callers on an event loop use a thread. A read that fails, or that finds nothing,
keeps what was known. No value of these ever stands in an error.
"""

import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

_MAX_BYTES = 65536
_FIXED = "DATAFILE_WEBHOOK_SECRETS"
_MOUNTED = "DATAFILE_WEBHOOK_SECRETS_PATH"
_TOKENS = "DATAFILE_ACCESS_TOKENS_PATH"


class CredentialsError(Exception):
    """A file or directory of secrets can't be used; its text names setting, path and cause, never a content."""

    def __init__(self, setting: str, problem: str) -> None:
        super().__init__(f"{setting}: {problem}")


class Secrets:
    """The webhook secrets that are active now: fixed ones and, with a path, those that are mounted there."""

    def __init__(self, path: Path | None, fixed: tuple[bytes, ...], clock: Callable[[], float]) -> None:
        """Read them once. Raises CredentialsError where a path was given and holds no secret. `clock` gives monotonic seconds."""
        self._path = path
        self._fixed = tuple(secret.strip() for secret in fixed)
        self._is_fixed_untrimmed = self._fixed != fixed
        self._clock = clock
        self._mounted: tuple[bytes, ...] = ()
        self._read_at = clock()
        self._untrimmed: tuple[str, ...] = ()
        self._empty: tuple[str, ...] = ()
        self.reread()

    @property
    def active(self) -> tuple[bytes, ...]:
        """Every secret that may sign, none of them empty."""
        return self._fixed + self._mounted

    @property
    def untrimmed(self) -> tuple[str, ...]:
        """The places, files or a variable, where white space stood around a secret."""
        return ((_FIXED,) if self._is_fixed_untrimmed else ()) + self._untrimmed

    @property
    def empty(self) -> tuple[str, ...]:
        """The files that hold no secret, beside others that do."""
        return self._empty

    def reread(self) -> bool:
        """Read the mounted ones again; whether they changed. Raises CredentialsError and keeps the old ones."""
        if self._path is None:
            return False
        self._read_at = self._clock()
        files = (
            _files(_MOUNTED, self._path)
            if os.path.isdir(self._path)
            else {self._path.name: _content(_MOUNTED, self._path)}
        )
        found = tuple(dict.fromkeys(stripped for content in files.values() if (stripped := content.strip())))
        if not found:
            raise CredentialsError(
                _MOUNTED, f"{self._path} holds no webhook secret: it is empty, and so is every file in it"
            )
        self._empty = tuple(name for name, content in files.items() if not content.strip())
        self._untrimmed = tuple(name for name, content in files.items() if content.strip() not in {content, b""})
        changed = found != self._mounted
        self._mounted = found
        return changed

    @property
    def are_recent(self) -> bool:
        """Whether they were read within the last second, or can't be read again."""
        return self._path is None or self._clock() - self._read_at < 1.0


class Tokens:
    """The datafile access tokens of secure environments, by SDK key."""

    def __init__(self, path: Path | None, sdk_keys: Collection[str]) -> None:
        """Read them once. Files that are named like none of our keys are passed over.

        Raises CredentialsError where the file of one of our keys holds no token.
        """
        self._path = path
        self._sdk_keys = frozenset(sdk_keys)
        self._tokens: Mapping[str, str] = {}
        self._names: tuple[str, ...] = ()
        self.reread()

    def get(self, sdk_key: str) -> str | None:
        """The token of this key, None where it needs none."""
        return self._tokens.get(sdk_key)

    @property
    def names(self) -> tuple[str, ...]:
        """What the files are called, also those that are named like none of our keys."""
        return self._names

    def __len__(self) -> int:
        """How many there are."""
        return len(self._tokens)

    def reread(self) -> bool:
        """Read them again; whether they changed. Raises CredentialsError and keeps the old ones."""
        if self._path is None:
            return False
        files = _files(_TOKENS, self._path)
        found = {
            name: _token(self._path / name, content.strip())
            for name, content in files.items()
            if name in self._sdk_keys
        }
        self._names = tuple(files)
        changed = found != self._tokens
        self._tokens = found
        return changed


def _token(path: Path, content: bytes) -> str:
    if not content or any(not 0x21 <= byte <= 0x7E for byte in content):
        raise CredentialsError(
            _TOKENS, f"{path} holds no access token: one line of visible ASCII characters is expected"
        )
    return content.decode("ascii")


def _files(setting: str, directory: Path) -> dict[str, bytes]:
    """The files of a directory, links followed as in a mounted Secret; names with a leading dot are its inner workings."""
    try:
        names = sorted(name for name in os.listdir(directory) if not name.startswith("."))
    except OSError as problem:
        raise CredentialsError(setting, f"{directory} can't be listed: {problem.strerror}") from problem
    return {name: _content(setting, directory / name) for name in names if not os.path.isdir(directory / name)}


def _content(setting: str, path: Path) -> bytes:
    try:
        # A pipe must not hold up the event loop until somebody writes into it.
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except OSError as problem:
        raise CredentialsError(setting, f"{path} can't be read: {problem.strerror}") from problem
    if len(content) > _MAX_BYTES:
        raise CredentialsError(setting, f"{path} is larger than {_MAX_BYTES} bytes, so it is no secret")
    return content
