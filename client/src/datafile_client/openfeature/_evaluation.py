"""One evaluation: from a flag's key and the wanted type to a value, with its variant, reason and metadata."""

from dataclasses import dataclass
from typing import Any, Self

from openfeature.exception import FlagNotFoundError, GeneralError, ParseError, TypeMismatchError
from openfeature.flag_evaluation import FlagResolutionDetails, FlagType
from optimizely.entities import FeatureFlag, Variable
from optimizely.optimizely import Optimizely
from optimizely.optimizely_user_context import OptimizelyUserContext
from optimizely.project_config import ProjectConfig

from datafile_client.openfeature._reason import reason_of, waits

_SHOWN = 100  # characters of a key that nobody knows; an app may have it from a request
# Where a flag has none of the first type, a number of the other one is taken if nothing of it is lost.
_TYPES = {
    FlagType.BOOLEAN: ("boolean",),
    FlagType.STRING: ("string",),
    FlagType.INTEGER: ("integer", "double"),
    FlagType.FLOAT: ("double", "integer"),
    FlagType.OBJECT: ("json",),
}


@dataclass(frozen=True, slots=True)
class Subject:
    """What a key means in one datafile: a flag, or one of its variables."""

    flag: FeatureFlag
    variable: str | None

    @classmethod
    def of(cls, config: ProjectConfig, key: str) -> Self:
        """Look up "flag" or "flag.variable". A flag with a dot in its own key comes first.

        Raises:
            FlagNotFoundError: the datafile has no such flag, or the flag no such variable.
        """
        flags: dict[str, FeatureFlag] = config.feature_key_map
        if key in flags:
            return cls(flags[key], None)
        name, dot, variable = key.partition(".")
        if dot and name in flags:
            if variable not in flags[name].variables:
                raise FlagNotFoundError(
                    f"The flag {name!r} has no variable {variable[:_SHOWN]!r} in revision {config.revision}"
                )
            return cls(flags[name], variable)
        raise FlagNotFoundError(f"There is no flag {key[:_SHOWN]!r} in revision {config.revision} of the datafile")


def evaluate(user: OptimizelyUserContext, key: str, wanted: FlagType) -> FlagResolutionDetails[Any]:
    """Decide for a user.

    Raises:
        OpenFeatureError: there is no value of that type. Its error code says why.
    """
    config = _config_of(user.client)
    subject = Subject.of(config, key)
    variable = _choose(subject, wanted)
    decision = user.decide(subject.flag.key)
    if variable is not None:
        value = _value(variable, decision.variables, key, wanted)
        if wanted is FlagType.OBJECT and not isinstance(value, list | dict):
            raise TypeMismatchError(f"{key!r}: its JSON is no list and no mapping")
    elif wanted is FlagType.BOOLEAN:
        value = decision.enabled
    else:
        value = decision.variables
        for one in subject.flag.variables.values():
            _value(one, value, key, wanted)
    metadata: dict[str, bool | int | float | str] = {"revision": int(config.revision)}
    if decision.rule_key is not None:
        metadata["rule_key"] = decision.rule_key
    reason = reason_of(config, subject.flag, decision, user.user_id)
    return FlagResolutionDetails(value, reason=reason, variant=decision.variation_key, flag_metadata=metadata)


def may_wait(optimizely: Optimizely, key: str) -> bool:
    """Tell whether a decision about this key may ask a server."""
    config = _config_of(optimizely)
    try:
        return waits(config, Subject.of(config, key).flag)
    except FlagNotFoundError:
        return False


def _config_of(optimizely: Optimizely) -> ProjectConfig:
    config = optimizely.config_manager.get_config()
    if not isinstance(config, ProjectConfig):
        raise GeneralError("the instance has no datafile")  # none of ours is without
    return config


def _choose(subject: Subject, wanted: FlagType) -> Variable | None:
    """Return the variable that is asked for; None for the whole flag."""
    variables, key = subject.flag.variables, subject.flag.key
    if subject.variable is not None:
        chosen = variables[subject.variable]
        if chosen.type not in _TYPES[wanted]:
            raise TypeMismatchError(f"The variable '{key}.{chosen.key}' is of type {chosen.type}, not {wanted.lower()}")
        return chosen
    if wanted in (FlagType.BOOLEAN, FlagType.OBJECT):
        return None
    for kind in _TYPES[wanted]:
        fitting = [variable for variable in variables.values() if variable.type == kind]
        if len(fitting) > 1:
            names = ", ".join(repr(f"{key}.{variable.key}") for variable in fitting)
            raise GeneralError(f"The flag {key!r} has several variables of type {kind}: ask for one of {names}")
        if fitting:
            return fitting[0]
    raise TypeMismatchError(f"The flag {key!r} has no variable of type {_TYPES[wanted][0]}")


def _value(variable: Variable, values: dict[str, Any], key: str, wanted: FlagType) -> Any:
    if variable.key not in values:
        raise GeneralError(f"{key!r}: the option EXCLUDE_VARIABLES of the SDK keeps its variables back")
    value = values[variable.key]
    if value is None and variable.type != "json":
        raise ParseError(f"{key!r}: the value of {variable.key!r} in the datafile is not of its type, {variable.type}")
    return _number(value, key, wanted) if wanted in (FlagType.INTEGER, FlagType.FLOAT) else value


def _number(value: int | float, key: str, wanted: FlagType) -> int | float:
    try:
        number = int(value) if wanted is FlagType.INTEGER else float(value)
    except (OverflowError, ValueError):  # infinite, no number, or beyond what a float holds
        number = None
    if number != value:
        raise TypeMismatchError(f"{key!r}: {value!r} can't be given as {wanted.lower()} without loss")
    return number
