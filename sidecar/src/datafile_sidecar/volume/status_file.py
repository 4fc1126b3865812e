"""The status file beside each datafile: its fields, and its bytes."""

from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec

from datafile_sidecar.core.times import rfc3339

SCHEMA = 1
TIMES = ("webhook", "fetched", "published", "checked")
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
_Word = Annotated[str, msgspec.Meta(max_length=64)]


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """What `<sdk_key>.status.json` says of the datafile beside it. Times are Unix seconds, None where it never happened."""

    sdk_key: str
    revision: _Count
    sha256: _Word
    size: _Count
    trigger: _Word
    generation: _Count
    webhook: float | None = None
    fetched: float | None = None
    published: float | None = None
    checked: float | None = None
    rolled_back_from: tuple[_Word, ...] = ()

    def fields(self) -> dict[str, Any]:
        """Return all fields, times in RFC 3339 UTC."""
        fields = msgspec.structs.asdict(self)
        return fields | {name: rfc3339(fields[name]) for name in TIMES}

    def encode(self) -> bytes:
        """Return the file's bytes, JSON."""
        return msgspec.json.format(msgspec.json.encode({"schema": SCHEMA} | self.fields())) + b"\n"

    @classmethod
    def decode(cls, text: bytes) -> "Status | None":
        """Return what the bytes of a status file say, None where they can't be parsed."""
        try:
            fields = msgspec.json.decode(text, type=dict[str, Any])
            if fields.get("schema") != SCHEMA:
                return None
            return msgspec.convert(fields | {name: _moment(fields.get(name)) for name in TIMES}, cls)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None


def _moment(text: Any) -> float | None:
    """Return the time in a status file, None where it can't be parsed or written again."""
    try:
        moment = datetime.fromisoformat(text).timestamp()
        datetime.fromtimestamp(moment, UTC)
    except (TypeError, ValueError, OverflowError):
        return None
    return moment
