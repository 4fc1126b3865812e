"""Decodes the long lists of a datafile one entry at a time, to save memory and to let other threads run.

A decoder in C holds the interpreter until it is done, and the objects that it builds take several times the memory of
their text. So the long lists first stay raw JSON. Each function takes the raw list of its name and yields its entries. The
result is the same as that of one decoder for the whole datafile. Iterating raises InvalidDatafileError and
msgspec.DecodeError.
"""

from collections.abc import Iterator
from functools import partial
from typing import TypeVar

import msgspec
from msgspec import Raw

from datafile_sidecar.core.datafile import schema
from datafile_sidecar.core.datafile.errors import from_validation_error

_T = TypeVar("_T")
_LIST = msgspec.json.Decoder(list[Raw])


def _entries(path: str, decoder: "msgspec.json.Decoder[_T]", raw: Raw) -> Iterator[_T]:
    where = path
    try:
        for index, entry in enumerate(_LIST.decode(raw)):
            where = f"{path}[{index}]"
            yield decoder.decode(entry)
    except msgspec.ValidationError as error:
        raise from_validation_error(error).under(where) from error


experiments = partial(_entries, "experiments", msgspec.json.Decoder(schema.Experiment))
feature_flags = partial(_entries, "featureFlags", msgspec.json.Decoder(schema.FeatureFlag))
rollouts = partial(_entries, "rollouts", msgspec.json.Decoder(schema.Rollout))
typed_audiences = partial(_entries, "typedAudiences", msgspec.json.Decoder(schema.TypedAudience))
