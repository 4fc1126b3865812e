"""What OpenFeature's types mean to Optimizely: the evaluation context, and the details of a tracking event."""

import datetime
import math
from collections.abc import Mapping
from typing import Any

from openfeature.evaluation_context import EvaluationContext
from openfeature.exception import InvalidContextError, TargetingKeyMissingError

Scalar = bool | int | float | str


def user_id_of(context: EvaluationContext | None) -> str:
    """Return the user's id.

    Raises:
        TargetingKeyMissingError: the context has none.
        InvalidContextError: it is not a text.
    """
    user_id: object = context.targeting_key if context is not None else None
    if user_id is None or user_id == "":
        raise TargetingKeyMissingError(
            "Optimizely decides by the user's id: set `targeting_key` in the evaluation context"
        )
    if not isinstance(user_id, str):
        raise InvalidContextError(f"`targeting_key` must be a text, not {type(user_id).__name__}")
    return user_id


def scalars_of(values: Mapping[str, Any]) -> dict[str, Scalar]:
    """Return what Optimizely takes as an attribute or a tag: texts, numbers and booleans; moments as ISO 8601 texts."""
    scalars: dict[str, Scalar] = {}
    for name, value in values.items():
        if isinstance(value, datetime.datetime):
            scalars[name] = value.isoformat()
        elif isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value)):
            scalars[name] = value
    return scalars
