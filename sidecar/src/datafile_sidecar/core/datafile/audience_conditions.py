"""Audience conditions: what the SDK does to them while it loads, and where it chokes.

An audience's own conditions are decoded with every object replaced by a number, and its segments collected into a
set. The conditions of an experiment, which name audiences, are turned into a sentence. Both steps take some odd values
and fail on others, without a word; these functions fail on the same ones, with words.
"""

import json
import re
from collections.abc import Mapping

import msgspec

from datafile_sidecar.core.datafile.errors import InvalidDatafileError, quoted
from datafile_sidecar.core.datafile.limits import check_shape

_OPERATORS = ("and", "or", "not")
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"')
_LIST_IN_AN_OBJECT = re.compile(rb":[ \t\r\n]*\[")
_SYNTAX = msgspec.json.Decoder(msgspec.Raw)
_VALUE = msgspec.json.Decoder()


def check_audience_text(conditions: str) -> None:
    """Raise InvalidDatafileError unless the SDK can load the conditions of an old-style audience: JSON in a string."""
    text = conditions.encode()
    check_shape(text)
    try:
        _SYNTAX.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidDatafileError("not strict JSON") from error
    check_audience(text)


def check_audience(conditions: bytes) -> None:
    """Raise InvalidDatafileError unless the SDK can load this JSON as the conditions of an audience.

    A condition with `"match": "qualified"` names a segment, which the SDK wants to put into a set.
    """
    if _LIST_IN_AN_OBJECT.search(conditions):
        json.loads(conditions, object_hook=_check_segment)


def _check_segment(condition: dict[str, object]) -> int:
    if condition.get("match") == "qualified" and isinstance(condition.get("value"), list):
        raise InvalidDatafileError("the segment of a qualified condition is a list")
    return 0


def check_experiment(conditions: bytes, names: Mapping[object, object]) -> None:
    """Raise InvalidDatafileError unless the SDK can put the conditions of an experiment, as JSON, into words.

    `names` maps ids of typed audiences to their names: an audience is called by its name, else by its id.
    """
    if b"{" in conditions and b"{" in _STRING.sub(b"", conditions) and conditions[1:].strip() != b"}":
        raise InvalidDatafileError("an object where an audience id belongs")
    value = _VALUE.decode(conditions)
    if isinstance(value, list):
        _check_spoken(value, names)
    elif value is not None and not isinstance(value, str | dict):
        raise InvalidDatafileError("neither a list nor null")


def _check_spoken(conditions: list[object], names: Mapping[object, object]) -> None:
    match conditions:
        case []:
            pass
        case [only]:
            if only not in _OPERATORS:
                _check_named(only, names)
        case [operator, only] if operator in _OPERATORS and not isinstance(only, list):
            if only not in _OPERATORS:
                _check_named(only, names)
        case _:
            _check_parts(conditions, names)


def _check_parts(parts: list[object], names: Mapping[object, object]) -> None:
    """Where there are several parts, the SDK skips those without a name, and looks into lists."""
    for part in parts:
        if isinstance(part, list):
            _check_spoken(part, names)
        elif part not in _OPERATORS and names.get(part, part) is not None:
            _check_named(part, names)


def _check_named(audience: object, names: Mapping[object, object]) -> None:
    if isinstance(audience, list):
        raise InvalidDatafileError("a list that is alone in its list")
    if not isinstance(names.get(audience, audience), str):
        raise InvalidDatafileError(f"no audience can be called {quoted(audience)}")
