"""How a fault in a datafile is explained."""

import msgspec
import pytest

from datafile_sidecar.core.datafile.errors import InvalidDatafileError, from_validation_error, quoted


def test_an_error_has_a_path_where_there_is_one() -> None:
    """The log names the entry that is wrong, or says what is wrong with the whole."""
    assert str(InvalidDatafileError("not UTF-8")) == "The datafile is not usable: not UTF-8."
    error = InvalidDatafileError("missing", "key").under("variables[1]").under("featureFlags[3]")
    assert error.reason == "featureFlags[3].variables[1].key: missing"
    assert InvalidDatafileError("missing").under("experiments[0]").reason == "experiments[0]: missing"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("é\n", "'\\xe9\\n'"),
        (5, "5"),
        ("x" * 78, f"'{'x' * 78}'"),
        ("x" * 79, f"'{'x' * 76}..."),
        ("x" * 9999, f"'{'x' * 76}..."),
    ],
)
def test_a_value_is_shown_safely(value: object, shown: str) -> None:
    """A value from a datafile shows in one line of at most 80 plain characters."""
    assert quoted(value) == shown
    assert len(shown) <= 80


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Object missing required field `version`", "version: missing"),
        ("Object missing required field `key` - at `$.featureFlags[3]`", "featureFlags[3].key: missing"),
        ("Expected `str`, got `int` - at `$.featureFlags[3].key`", "featureFlags[3].key: expected a string, got a number"),
        ("Expected `int`, got `float` - at `$.endOfRange`", "endOfRange: expected a whole number, got a number"),
        ("Expected `object`, got `array`", "expected an object, got a list"),
        ("Expected `array`, got `null` - at `$[0]`", "[0]: expected a list, got null"),
        ("Expected `array | null`, got `bool` - at `$.a`", "a: expected a list or null, got a boolean"),
        ("Expected `str | null`, got `object` - at `$.a`", "a: expected a string or null, got an object"),
        ("Expected `bool | int | float | str | null`, got `array`", "expected a plain value, got a list"),
        ("Expected `never`, got `str` - at `$.featureFlags[0].self`", "featureFlags[0].self: a name that the SDK cannot take"),
        ("Expected `date`, got `str` - at `$.a`", "a: expected date, got a string"),
        ("Expected `str`, got `bytes` - at `$.a`", "a: expected a string, got bytes"),
        ("Invalid enum value 'x' - at `$.a`", "a: Invalid enum value 'x'"),
    ],
)  # fmt: skip
def test_the_decoders_errors_become_plain_english(text: str, reason: str) -> None:
    """A user reads the path in the JSON, and JSON's own names of types."""
    assert from_validation_error(msgspec.ValidationError(text)).reason == reason
