"""The rules that a test gives for one flag, checked."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

_TYPES = {bool: ("boolean", "false"), int: ("integer", "0"), float: ("double", "0.0"), str: ("string", "")}
_KEYS = ("on", "variables", "variation", "percentage", "audience", "user")


@dataclass(frozen=True, slots=True)
class Value:
    """A variable's value as a datafile has it, with its type, and what is empty for that type."""

    kind: str
    text: str
    empty: str

    @classmethod
    def of(cls, value: object) -> Self:
        """Write a value. Raises TypeError or ValueError where JSON can't."""
        kind, empty = _TYPES.get(type(value), ("json", "[]" if isinstance(value, list | tuple) else "{}"))
        return cls(kind, value if isinstance(value, str) else json.dumps(value, allow_nan=False), empty)


@dataclass(frozen=True, slots=True)
class Rule:
    """Who gets what of one flag."""

    on: bool
    variation: str
    percentage: float
    user: str | None
    audience: Any
    values: Mapping[str, Value]

    @classmethod
    def of(cls, flag: str, given: Any) -> Self:
        """Check one rule.

        Raises:
            ValueError: it has another form.
        """
        if not isinstance(given, Mapping) or given.keys() - set(_KEYS):
            known = ", ".join(repr(key) for key in _KEYS)
            raise ValueError(
                f"flag {flag!r} must be True, False, or rules: mappings with keys of {known}, not {given!r}"
            )
        on, variables = given.get("on", True), given.get("variables", {})
        variation = given.get("variation") or ("on" if on else "off")
        percentage = given.get("percentage", 100)
        user, audience = given.get("user"), given.get("audience")
        is_number = isinstance(percentage, int | float) and not isinstance(percentage, bool)
        is_variables = isinstance(variables, Mapping) and all(isinstance(name, str) for name in variables)
        for is_right, reason in (
            (isinstance(on, bool), f"'on' must be True or False, not {on!r}"),
            (is_variables, f"'variables' must be a mapping from texts, not {variables!r}"),
            (isinstance(variation, str), f"'variation' must be a text, not {variation!r}"),
            (is_number and 0 <= percentage <= 100, f"'percentage' must be a number from 0 to 100, not {percentage!r}"),
            (isinstance(user, str | None), f"'user' must be a text, not {user!r}"),
            (_is_audience(audience), f"'audience' must be a mapping or a list of conditions, not {audience!r}"),
            (
                user is None or (audience is None and percentage == 100),
                "a rule for a user has no audience and no percentage",
            ),
        ):
            if not is_right:
                raise ValueError(f"flag {flag!r}: {reason}")
        try:
            values = {name: Value.of(value) for name, value in variables.items()}
        except (TypeError, ValueError) as error:
            raise ValueError(f"flag {flag!r}: a variable can't be written as JSON: {error}") from error
        return cls(on, variation, percentage, user, audience, values)


def rules_of(flag: str, given: Any) -> list[Rule]:
    """Check a flag: True, False, one rule or a list of rules.

    Raises:
        ValueError: it has another form.
    """
    if isinstance(given, bool):
        given = {"on": given}
    is_list = isinstance(given, Sequence) and not isinstance(given, str)
    return [Rule.of(flag, rule) for rule in (given if is_list else [given])]


def _is_audience(audience: Any) -> bool:
    if isinstance(audience, Mapping):
        return all(isinstance(one, str) for one in audience) and all(
            isinstance(one, str | int | float) for one in audience.values()
        )
    return audience is None or (isinstance(audience, Sequence) and not isinstance(audience, str))
