"""Decoding a datafile a piece at a time: neither is all of it in memory at once, nor does it keep others from their turn.

A decoder in C gives nobody else a turn while it works, in whatever thread, and what it builds is several times the size of its
text. So the long lists of a datafile are first passed over as raw JSON, and then decoded entry by entry, anew each time that
somebody goes through them. The verdict is that of one decoder for all of it.
"""

from collections.abc import Iterator
from typing import Any, Final, Generic, TypeVar

import msgspec
from msgspec import Raw

from datafile_sidecar.core.datafile import schema
from datafile_sidecar.core.datafile.errors import in_words

_T = TypeVar("_T")

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
    """The whole of it. Going through its long lists raises msgspec.DecodeError and InvalidDatafileError."""
    parts = msgspec.structs.asdict(outline)
    for name, place, decoder in _LONG:
        parts[name] = _Entries(parts[name], place, decoder)
    return schema.Document(**parts)


class _Entries(Generic[_T]):
    """The entries of a list that are decoded only when it is their turn."""

    def __init__(self, raw: Raw, place: str, decoder: "msgspec.json.Decoder[_T]") -> None:
        self._raw = raw
        self._place = place
        self._decoder = decoder

    def __iter__(self) -> Iterator[_T]:
        place = self._place
        try:
            for index, entry in enumerate(_LIST.decode(self._raw)):
                place = f"{self._place}[{index}]"
                yield self._decoder.decode(entry)
        except msgspec.ValidationError as error:
            raise in_words(error).inside(place) from error
