"""Decodes the long lists of a datafile one entry at a time, to save memory and to let other threads run.

A decoder in C holds the interpreter until it is done, and the objects that it builds take several times the memory of
their text. So the long lists first stay raw JSON. Each iteration over one of them decodes its entries anew. The result
is the same as that of one decoder for the whole datafile.
"""

from collections.abc import Iterator
from typing import Any, Final, Generic, TypeVar

import msgspec
from msgspec import Raw

from datafile_sidecar.core.datafile import schema
from datafile_sidecar.core.datafile.errors import from_validation_error

_T = TypeVar("_T")

_OUTLINE: Final = msgspec.json.Decoder(schema.Outline)
_LIST: Final = msgspec.json.Decoder(list[Raw])
_LONG_LISTS: Final[tuple[tuple[str, str, msgspec.json.Decoder[Any]], ...]] = (
    ("experiments", "experiments", msgspec.json.Decoder(schema.Experiment)),
    ("feature_flags", "featureFlags", msgspec.json.Decoder(schema.FeatureFlag)),
    ("rollouts", "rollouts", msgspec.json.Decoder(schema.Rollout)),
    ("typed_audiences", "typedAudiences", msgspec.json.Decoder(schema.TypedAudience)),
)


def decode_outline(body: bytes) -> schema.Outline:
    """Decode everything except the entries of the long lists.

    Raises:
        msgspec.DecodeError: The bytes are not JSON of this shape.
    """
    return _OUTLINE.decode(body)


def to_document(outline: schema.Outline) -> schema.Document:
    """Return the whole datafile. Iterating over its long lists raises msgspec.DecodeError and InvalidDatafileError."""
    fields = msgspec.structs.asdict(outline)
    for name, path, decoder in _LONG_LISTS:
        fields[name] = _LazyList(fields[name], path, decoder)
    return schema.Document(**fields)


class _LazyList(Generic[_T]):
    """A list whose entries are decoded during iteration."""

    def __init__(self, raw: Raw, path: str, decoder: "msgspec.json.Decoder[_T]") -> None:
        self._raw = raw
        self._path = path
        self._decoder = decoder

    def __iter__(self) -> Iterator[_T]:
        path = self._path
        try:
            for index, entry in enumerate(_LIST.decode(self._raw)):
                path = f"{self._path}[{index}]"
                yield self._decoder.decode(entry)
        except msgspec.ValidationError as error:
            raise from_validation_error(error).under(path) from error
