"""A datafile: its bytes as served, and the guarantee that the SDK can load them.

Whatever `parse` accepts gives every supported SDK a config, and whatever they can load is accepted, with the exceptions
that docs/decisions/0101 lists with their reasons. The bytes are never changed.
"""

import codecs
import hashlib
import re
from contextlib import suppress
from dataclasses import dataclass, field

import msgspec

from datafile_sidecar.core.datafile import schema
from datafile_sidecar.core.datafile.errors import InvalidDatafileError, from_validation_error, quoted
from datafile_sidecar.core.datafile.limits import check_limits, check_utf8
from datafile_sidecar.core.datafile.references import check_references

MAX_BYTES = 8 * 1024 * 1024

_MAX_TEXT = 1024
_OUTLINE = msgspec.json.Decoder(schema.Outline)
_VERSION = msgspec.json.Decoder(schema.VersionOnly)
_TEXT = msgspec.json.Decoder(str)


@dataclass(frozen=True, slots=True)
class Datafile:
    """A valid datafile. `sha256` is the hex digest of `body`, the bytes as served.

    `environment_key` is the key of its environment in Optimizely; None where it has none that is text.
    """

    body: bytes = field(repr=False)
    revision: int
    sha256: str
    project_id: str | None
    environment_key: str | None = None

    @property
    def size(self) -> int:
        """Length of the body in bytes."""
        return len(self.body)


def parse(body: bytes, sdk_key: str | None) -> Datafile:
    """Validate a datafile.

    Args:
        body: The bytes as served.
        sdk_key: The key that they were fetched for; None takes a datafile of any key.

    Raises:
        InvalidDatafileError: The bytes are not a datafile of this key that every supported SDK can load. Nothing else
            is raised.
    """
    try:
        _check_text(body)
        outline = _OUTLINE.decode(body)
        _check_header(outline, sdk_key)
        check_references(outline)
    except msgspec.ValidationError as error:
        # Report an unsupported version first: its shape may differ just because it is newer.
        with suppress(msgspec.DecodeError):
            _check_version(_VERSION.decode(body).version)
        raise from_validation_error(error) from error
    except msgspec.DecodeError as error:
        raise InvalidDatafileError(f"not strict JSON ({error})") from error
    except RecursionError as error:
        raise InvalidDatafileError("nested too deeply") from error
    digest = hashlib.sha256(body).hexdigest()
    return Datafile(
        body=body,
        revision=int(outline.revision),
        sha256=digest,
        project_id=outline.project_id,
        environment_key=_text(bytes(outline.environment_key)),
    )


def _check_text(body: bytes) -> None:
    if len(body) > MAX_BYTES:
        raise InvalidDatafileError(f"larger than {MAX_BYTES} bytes")
    if body.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise InvalidDatafileError("starts with a byte order mark")
    if not re.match(rb"[ \t\r\n]*\{", body):
        raise InvalidDatafileError("empty" if not body.strip() else "not a JSON object")
    check_utf8(body)
    check_limits(body)


def _check_version(version: str) -> None:
    if version not in {"2", "3", "4"}:
        raise InvalidDatafileError(f"{quoted(version)} is not supported, only 2, 3 and 4 are", "version")


def _check_header(outline: schema.Outline, sdk_key: str | None) -> None:
    _check_version(outline.version)
    if not re.fullmatch("[0-9]{1,15}", outline.revision):
        raise InvalidDatafileError(f"{quoted(outline.revision)} is not a decimal number of 1 to 15 digits", "revision")
    if sdk_key is not None and outline.sdk_key and outline.sdk_key != sdk_key:
        raise InvalidDatafileError(f"{quoted(outline.sdk_key)} is another key's, expected {sdk_key!r}", "sdkKey")


def _text(value: bytes) -> str | None:
    """Return a short text in JSON, None where it is something else: the SDK takes anything."""
    if len(value) <= _MAX_TEXT:
        with suppress(msgspec.DecodeError):
            return str(_TEXT.decode(value))
    return None
