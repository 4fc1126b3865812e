"""Checks of audience conditions: they fail where the SDK fails while it loads a datafile.

The SDK decodes an audience's own conditions with every object replaced by a number, and collects the segments in a set.
It turns the conditions of an experiment, which name audiences, into text. Both steps accept some odd values and fail on
others without a message. These functions fail on the same values, with a message.
"""

import json
import re
from collections.abc import Mapping

import msgspec

from datafile_sidecar.core.datafile.errors import InvalidDatafileError, quoted
from datafile_sidecar.core.datafile.limits import check_limits

_OPERATORS = ("and", "or", "not")
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"')
_LIST_IN_AN_OBJECT = re.compile(rb":[ \t\r\n]*\[")
_STRICT_JSON = msgspec.json.Decoder(msgspec.Raw)
_VALUE = msgspec.json.Decoder()


def check_audience(conditions: str) -> None:
    """Check the conditions of an old-style audience: JSON within a string.

    Raises:
        InvalidDatafileError: The SDK can't load them.
    """
    text = conditions.encode()
    check_limits(text)
    try:
        _STRICT_JSON.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidDatafileError("not strict JSON") from error
    check_typed_audience(text)


def check_typed_audience(conditions: bytes) -> None:
    """Check the conditions of a typed audience, as JSON.

    A condition with `"match": "qualified"` names a segment, which the SDK puts into a set.

    Raises:
        InvalidDatafileError: The SDK can't load them.
    """
    if _LIST_IN_AN_OBJECT.search(conditions):
        json.loads(conditions, object_hook=_check_segment)


def _check_segment(condition: dict[str, object]) -> int:
    if condition.get("match") == "qualified" and isinstance(condition.get("value"), list):
        raise InvalidDatafileError("the segment of a qualified condition is a list")
    return 0


def check_experiment(conditions: bytes, names: Mapping[object, object]) -> None:
    """Check that the SDK can turn the audience conditions of an experiment into text.

    Args:
        conditions: JSON.
        names: The names of typed audiences by id. An audience without a name is shown by its id.

    Raises:
        InvalidDatafileError: The SDK can't do it.
    """
    if b"{" in conditions and b"{" in _STRING.sub(b"", conditions) and conditions[1:].strip() != b"}":
        raise InvalidDatafileError("an object where an audience id belongs")
    value = _VALUE.decode(conditions)
    if isinstance(value, list):
        _check_list(value, names)
    elif value is not None and not isinstance(value, str | dict):
        raise InvalidDatafileError("neither a list nor null")


def _check_list(conditions: list[object], names: Mapping[object, object]) -> None:
    """Check a list. If it has several items, the SDK skips those without a name, and descends into lists."""
    match conditions:
        case [only] if only not in _OPERATORS:
            _check_name(only, names)
        case [operator, only] if operator in _OPERATORS and only not in _OPERATORS and not isinstance(only, list):
            _check_name(only, names)
        case _:
            for item in conditions:
                if isinstance(item, list):
                    _check_list(item, names)
                elif item not in _OPERATORS and names.get(item, item) is not None:
                    _check_name(item, names)


def _check_name(audience: object, names: Mapping[object, object]) -> None:
    if isinstance(audience, list):
        raise InvalidDatafileError("a list that is alone in its list")
    if not isinstance(names.get(audience, audience), str):
        raise InvalidDatafileError(f"no audience can be called {quoted(audience)}")
