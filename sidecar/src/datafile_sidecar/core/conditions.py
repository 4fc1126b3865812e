"""Audience conditions: what the SDK does to them while it loads, and where it chokes.

An audience's own conditions are decoded with every object replaced by a number, and its segments collected into a
set. The conditions of an experiment, which name audiences, are turned into a sentence. Both steps take some odd values
and fail on others, without a word; these two functions fail on the same ones, with words.
"""

import json
import re
from collections.abc import Mapping

import msgspec

from datafile_sidecar.core.schema import Scalar
from datafile_sidecar.core.text import check_shape

_OPERATORS = ("and", "or", "not")
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"')
_ANY = msgspec.json.Decoder(msgspec.Raw)


class ConditionsError(ValueError):
    """Conditions that no SDK can load; the text says why."""


def check_audience(conditions: bytes) -> None:
    """Raise ConditionsError unless the SDK can load this JSON text as the conditions of an audience."""
    check_shape(conditions)
    try:
        _ANY.decode(conditions)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ConditionsError("not JSON") from error
    if b"qualified" in conditions or b"\\u" in conditions:
        json.loads(conditions, object_hook=_segment)


def _segment(condition: dict[str, object]) -> int:
    if condition.get("match") == "qualified" and isinstance(condition.get("value"), list):
        raise ConditionsError("a qualified segment is a list")
    return 0


def check_experiment(conditions: bytes, names: Mapping[Scalar, object]) -> None:
    """Raise ConditionsError unless the SDK can put the conditions of an experiment into words.

    `names` maps the ids of typed audiences to their names: an audience is called by its name, or else by its id.
    """
    if b"{" in conditions and b"{" in _STRING.sub(b"", conditions) and conditions[1:].strip() != b"}":
        raise ConditionsError("an object where an audience id belongs")
    value = msgspec.json.decode(conditions)
    if isinstance(value, list):
        _check_spoken(value, names)
    elif value is not None and not isinstance(value, str | dict):
        raise ConditionsError("neither a list nor null")


def _check_spoken(conditions: list[object], names: Mapping[Scalar, object]) -> None:
    match conditions:
        case []:
            return
        case [only] if only not in _OPERATORS:
            _check_named(only, names)
        case [operator, only] if operator in _OPERATORS and not isinstance(only, list) and only not in _OPERATORS:
            _check_named(only, names)
        case _:
            _check_parts(conditions, names)


def _check_parts(conditions: list[object], names: Mapping[Scalar, object]) -> None:
    if len(conditions) == 1:
        return
    for part in conditions:
        if isinstance(part, list):
            _check_spoken(part, names)
        elif part not in _OPERATORS and part is not None:
            _check_named(part, names)


def _check_named(audience: object, names: Mapping[Scalar, object]) -> None:
    if isinstance(audience, list):
        raise ConditionsError("a list alone in a list")
    if not isinstance(names.get(audience, audience), str):  # type: ignore[call-overload]
        raise ConditionsError(f"an audience without a name: {audience!r}")
