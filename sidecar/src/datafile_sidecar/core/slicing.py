"""Decoding a datafile a piece at a time: a decoder in C gives nobody else a turn while it works, in whatever thread.

The long lists of a datafile are first passed over as raw JSON, then decoded entry by entry. The verdict is that of one decoder
for all of it.
"""

from typing import Any, Final

import msgspec
from msgspec import Raw

from datafile_sidecar.core import schema
from datafile_sidecar.core.invalid_datafile import in_words

_OUTLINE: Final = msgspec.json.Decoder(schema.Outline)
_LIST: Final = msgspec.json.Decoder(list[Raw])
_LONG: Final[tuple[tuple[str, str, msgspec.json.Decoder[Any]], ...]] = (
    ("experiments", "experiments", msgspec.json.Decoder(schema.Experiment)),
    ("feature_flags", "featureFlags", msgspec.json.Decoder(schema.FeatureFlag)),
    ("rollouts", "rollouts", msgspec.json.Decoder(schema.Rollout)),
    ("typed_audiences", "typedAudiences", msgspec.json.Decoder(schema.TypedAudience)),
)


def outline(body: bytes) -> schema.Outline:
    """All of a datafile but the entries of its long lists. Raises msgspec.DecodeError."""
    return _OUTLINE.decode(body)


def complete(outline: schema.Outline) -> schema.Document:
    """The whole of it. Raises msgspec.DecodeError and InvalidDatafileError."""
    parts = msgspec.structs.asdict(outline)
    for name, place, decoder in _LONG:
        parts[name] = _entries(parts[name], place, decoder)
    return schema.Document(**parts)


def _entries(raw: Raw, place: str, decoder: msgspec.json.Decoder[Any]) -> list[Any]:
    entries: list[Any] = []
    try:
        for entry in _LIST.decode(raw):
            entries.append(decoder.decode(entry))  # noqa: PERF401 - the error names the entry by how many there are
    except msgspec.ValidationError as error:
        is_list = bytes(raw).startswith(b"[")
        raise in_words(error).inside(f"{place}[{len(entries)}]" if is_list else place) from error
    return entries
