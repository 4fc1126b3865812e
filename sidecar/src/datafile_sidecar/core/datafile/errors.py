"""The one error for bytes that must not be published, and the decoder's errors in its words."""

import re
from typing import Self

import msgspec

_NOUNS = {
    "array": "a list",
    "bool": "a boolean",
    "float": "a number",
    "int": "a number",
    "object": "an object",
    "str": "a string",
    "array | null": "a list or null",
    "str | null": "a string or null",
    "bool | int | float | str | null": "a plain value",
}


class InvalidDatafileError(ValueError):
    """What is wrong with a datafile, and where: `place` is a path such as `featureFlags[3].key`, or empty."""

    def __init__(self, fault: str, place: str = "") -> None:
        super().__init__(fault, place)
        self.fault = fault
        self.place = place

    @property
    def reason(self) -> str:
        """Place and fault in words, for people."""
        return f"{self.place}: {self.fault}" if self.place else self.fault

    def inside(self, place: str) -> Self:
        """The same fault, seen from one level further up."""
        return type(self)(self.fault, f"{place}.{self.place}" if self.place else place)

    def __str__(self) -> str:
        return f"The datafile is not usable: {self.reason}."


def quoted(value: object) -> str:
    """The value as it may stand in an error: escaped, and not longer than a line."""
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def in_words(error: msgspec.ValidationError) -> InvalidDatafileError:
    """Turn "Expected `str`, got `int` - at `$.featureFlags[3].key`" into a place and a fault for people."""
    fault, _, place = str(error).partition(" - at `$")
    place = place.rstrip("`").lstrip(".")
    if missing := re.fullmatch("Object missing required field `(.+)`", fault):
        return InvalidDatafileError("missing", f"{place}.{missing[1]}".lstrip("."))
    if f".{place}".endswith(".self"):
        return InvalidDatafileError("a name that the SDK cannot take", place)
    if types := re.fullmatch("Expected `(.+)`, got `(.+)`", fault):
        wanted = "a whole number" if types[1] == "int" else _NOUNS.get(types[1], types[1])
        return InvalidDatafileError(f"expected {wanted}, got {_NOUNS.get(types[2], types[2])}", place)
    return InvalidDatafileError(fault, place)
