"""Decodes the long lists of a datafile one entry at a time, to save memory and to let other threads run.

A decoder in C holds the interpreter until it is done, and the objects that it builds take several times the memory of
their text. So the long lists first stay raw JSON. Each call decodes the entries anew. The result is the same as that of one
decoder for the whole datafile. Iterating raises InvalidDatafileError for an entry of the wrong shape, and
msgspec.DecodeError.
"""

from collections.abc import Iterator
from typing import TypeVar

import msgspec
from msgspec import Raw

from datafile_sidecar.core.datafile.errors import from_validation_error
from datafile_sidecar.core.datafile.schema import Experiment, FeatureFlag, Outline, Rollout, TypedAudience

_T = TypeVar("_T")
_LIST = msgspec.json.Decoder(list[Raw])
_EXPERIMENT = msgspec.json.Decoder(Experiment)
_FEATURE_FLAG = msgspec.json.Decoder(FeatureFlag)
_ROLLOUT = msgspec.json.Decoder(Rollout)
_TYPED_AUDIENCE = msgspec.json.Decoder(TypedAudience)


def experiments(outline: Outline) -> Iterator[Experiment]:
    """Decode the experiments outside groups."""
    return _entries(outline.experiments, _EXPERIMENT, "experiments")


def feature_flags(outline: Outline) -> Iterator[FeatureFlag]:
    """Decode the flags."""
    return _entries(outline.feature_flags, _FEATURE_FLAG, "featureFlags")


def rollouts(outline: Outline) -> Iterator[Rollout]:
    """Decode the rollouts."""
    return _entries(outline.rollouts, _ROLLOUT, "rollouts")


def typed_audiences(outline: Outline) -> Iterator[TypedAudience]:
    """Decode the typed audiences."""
    return _entries(outline.typed_audiences, _TYPED_AUDIENCE, "typedAudiences")


def _entries(raw: Raw, decoder: "msgspec.json.Decoder[_T]", path: str) -> Iterator[_T]:
    where = path
    try:
        for index, entry in enumerate(_LIST.decode(raw)):
            where = f"{path}[{index}]"
            yield decoder.decode(entry)
    except msgspec.ValidationError as error:
        raise from_validation_error(error).under(where) from error
