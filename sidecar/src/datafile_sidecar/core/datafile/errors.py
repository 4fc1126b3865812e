"""The error for an invalid datafile, and the translation of the decoder's errors into it."""

import re
from typing import Self

import msgspec

_TYPE_NAMES = {
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
    """What is wrong with a datafile, and where: `path` is for example `featureFlags[3].key`, or empty."""

    def __init__(self, fault: str, path: str = "") -> None:
        super().__init__(fault, path)
        self.fault = fault
        self.path = path

    @property
    def reason(self) -> str:
        """Path and fault, for people."""
        return f"{self.path}: {self.fault}" if self.path else self.fault

    def under(self, parent: str) -> Self:
        """Return the same error with its path extended by the path of the parent."""
        return type(self)(self.fault, f"{parent}.{self.path}" if self.path else parent)

    def __str__(self) -> str:
        return f"The datafile is not usable: {self.reason}."


def quoted(value: object) -> str:
    """Return the value as it may be shown in an error: escaped, and at most 80 characters."""
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def from_validation_error(error: msgspec.ValidationError) -> InvalidDatafileError:
    """Turn "Expected `str`, got `int` - at `$.featureFlags[3].key`" into a path and a fault for people."""
    fault, _, path = str(error).partition(" - at `$")
    path = path.rstrip("`").lstrip(".")
    if missing := re.fullmatch("Object missing required field `(.+)`", fault):
        return InvalidDatafileError("missing", f"{path}.{missing[1]}".lstrip("."))
    if f".{path}".endswith(".self"):
        return InvalidDatafileError("a name that the SDK cannot take", path)
    if types := re.fullmatch("Expected `(.+)`, got `(.+)`", fault):
        expected = "a whole number" if types[1] == "int" else _TYPE_NAMES.get(types[1], types[1])
        return InvalidDatafileError(f"expected {expected}, got {_TYPE_NAMES.get(types[2], types[2])}", path)
    return InvalidDatafileError(fault, path)
