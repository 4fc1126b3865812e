"""Webhook secrets and access tokens, from the environment or from mounted files that are reread while running.

Reading blocks as long as the mount does: on an event loop, use a thread. A read that fails or finds nothing keeps the
previous values. Errors never contain a secret.
"""

import codecs
import contextlib
import os
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

_MAX_BYTES = 65536
_READS, _READ_AGAIN_S = 5, 0.1
_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",  # before UTF-16, which begins in the same way
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
_SECRETS = "DATAFILE_WEBHOOK_SECRETS"
_SECRETS_PATH = "DATAFILE_WEBHOOK_SECRETS_PATH"
_TOKENS_PATH = "DATAFILE_ACCESS_TOKENS_PATH"


class CredentialsError(Exception):
    """A file or directory of secrets can't be used. The text has setting, path and cause, never the content."""


class Secrets:
    """The webhook secrets: fixed ones from the environment, and those in mounted files."""

    def __init__(self, path: Path | None, fixed: tuple[bytes, ...], clock: Callable[[], float]) -> None:
        """Read the mounted secrets. Raises CredentialsError when there is none at `path`.

        Args:
            path: a file, or a directory of files; None without mounted secrets.
            clock: returns monotonic seconds.
        """
        self._path = path
        self._fixed = tuple(trimmed(secret) for secret in fixed)
        self._untrimmed_variable = (_SECRETS,) if any(map(_has_white_space, fixed)) else ()
        self._marked_variable = (_SECRETS,) if any(map(_byte_order_mark, fixed)) else ()
        self._mounted: tuple[bytes, ...] = ()
        self._clock = clock
        self._read_at = clock()
        self.untrimmed: tuple[str, ...] = self._untrimmed_variable
        """The names of the files, or of the variable, that have white space around a secret."""
        self.marked: tuple[str, ...] = self._marked_variable
        """The names of the files, or of the variable, that have a byte order mark before a secret."""
        self.empty: tuple[str, ...] = ()
        """The names of the files that are empty."""
        self.reread()

    @property
    def active(self) -> tuple[bytes, ...]:
        """All secrets that a webhook may be signed with, none of them empty."""
        return self._fixed + self._mounted

    def reread(self) -> bool:
        """Read the mounted secrets again. Returns whether they changed. Raises CredentialsError and keeps the previous ones."""
        if self._path is None:
            return False
        self._read_at = self._clock()
        if os.path.isdir(self._path):
            files = _read_files(_SECRETS_PATH, self._path)
        else:
            files = {self._path.name: _read_file(_SECRETS_PATH, self._path)}
        mounted = tuple(dict.fromkeys(secret for content in files.values() if (secret := trimmed(content))))
        if not mounted:
            problem = "contains no webhook secret: the file, or every file in the directory, is empty"
            raise CredentialsError(f"{_SECRETS_PATH}: {self._path} {problem}")
        self.empty = tuple(name for name, content in files.items() if not trimmed(content))
        self.untrimmed = self._untrimmed_variable + _names(files, _has_white_space)
        self.marked = self._marked_variable + _names(files, _byte_order_mark)
        previous, self._mounted = self._mounted, mounted
        return mounted != previous

    @property
    def are_recent(self) -> bool:
        """Whether they were read within the last second, or are not mounted."""
        return self._path is None or self._clock() - self._read_at < 1.0


class Tokens:
    """The datafile access tokens of secure environments, by SDK key."""

    def __init__(self, path: Path | None, sdk_keys: Collection[str]) -> None:
        """Read the tokens. Files that match no SDK key are ignored.

        Raises CredentialsError when the file of a key does not contain a token.

        Args:
            path: a directory with a file per SDK key; None without tokens.
        """
        self._path = path
        self._sdk_keys = frozenset(sdk_keys)
        self._tokens: Mapping[str, str] = {}
        self.names: tuple[str, ...] = ()
        """The names of all files, including those that match no SDK key."""
        self.marked: tuple[str, ...] = ()
        """The SDK keys whose file has a byte order mark before the token."""
        self.reread()

    def get(self, sdk_key: str) -> str | None:
        """The token of a key, None without one."""
        return self._tokens.get(sdk_key)

    def __len__(self) -> int:
        """The number of tokens."""
        return len(self._tokens)

    def reread(self) -> bool:
        """Read the tokens again. Returns whether they changed. Raises CredentialsError and keeps the previous ones."""
        if self._path is None:
            return False
        files = _read_files(_TOKENS_PATH, self._path)
        ours = {name: content for name, content in files.items() if name in self._sdk_keys}
        tokens = {name: _token(self._path / name, trimmed(content)) for name, content in ours.items()}
        self.names, self.marked = tuple(files), _names(ours, _byte_order_mark)
        previous, self._tokens = self._tokens, tokens
        return tokens != previous


def _token(path: Path, content: bytes) -> str:
    if not content or any(not 0x21 <= byte <= 0x7E for byte in content):
        problem = "does not contain an access token: expected one line of visible ASCII characters"
        raise CredentialsError(f"{_TOKENS_PATH}: {path} {problem}")
    return content.decode("ascii")


def trimmed(content: bytes) -> bytes:
    """Return a secret as UTF-8, without white space and without the byte order mark that Windows tools write before it.

    Bytes that are not of the encoding that their mark names are no text: they stay as they are.
    """
    if mark := _byte_order_mark(content):
        with contextlib.suppress(UnicodeError):
            content = content.removeprefix(mark).decode(_BYTE_ORDER_MARKS[mark]).encode()
    return content.strip()


def _byte_order_mark(content: bytes) -> bytes:
    return next((mark for mark in _BYTE_ORDER_MARKS if content.startswith(mark)), b"")


def _has_white_space(content: bytes) -> bool:
    return not _byte_order_mark(content) and content.strip() not in {content, b""}


def _names(files: Mapping[str, bytes], matches: Callable[[bytes], object]) -> tuple[str, ...]:
    return tuple(name for name, content in files.items() if matches(content))


def _read_files(setting: str, directory: Path) -> dict[str, bytes]:
    """Read all files of a directory. Links are followed; names with a leading dot are internal to a mounted Secret.

    While a mounted Secret is replaced, a name may lead nowhere for a moment: then all are read again.
    """
    for _ in range(_READS - 1):
        try:
            return _read_files_once(setting, directory)
        except CredentialsError as error:
            if not isinstance(error.__cause__, FileNotFoundError) or not os.path.isdir(directory):
                raise
            time.sleep(_READ_AGAIN_S)
    return _read_files_once(setting, directory)


def _read_files_once(setting: str, directory: Path) -> dict[str, bytes]:
    try:
        names = sorted(name for name in os.listdir(directory) if not name.startswith("."))
    except OSError as error:
        raise CredentialsError(f"{setting}: {directory} can't be listed: {error.strerror}") from error
    return {name: _read_file(setting, directory / name) for name in names if not os.path.isdir(directory / name)}


def _read_file(setting: str, path: Path) -> bytes:
    try:
        # Without O_NONBLOCK, opening a pipe blocks until another process opens it for writing.
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise CredentialsError(f"{setting}: {path} can't be read: {error.strerror}") from error
    if len(content) > _MAX_BYTES:
        raise CredentialsError(f"{setting}: {path} is larger than {_MAX_BYTES} bytes, which is too large for a secret")
    return content
