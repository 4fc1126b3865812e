"""What the SDK does with a datafile of the right shape while it loads it: it follows references and reads conditions.

Each check here stands for a line of the SDK that raises. The SDK swallows some of these errors, has no config then, and
says "off" to every flag; others come out of its constructor.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import msgspec
from msgspec import Raw

from datafile_sidecar.core.datafile import schema
from datafile_sidecar.core.datafile.audience_conditions import check_audience, check_audience_text, check_experiment
from datafile_sidecar.core.datafile.errors import InvalidDatafileError, in_words, quoted

_T = TypeVar("_T")
_HOLDOUT = msgspec.json.Decoder(schema.Holdout)
_LOCAL_HOLDOUT = msgspec.json.Decoder(schema.LocalHoldout)
_IDS = msgspec.json.Decoder(list[schema.Scalar])
_RUNNING = b'"Running"'
_NOTHING = (b"", b"null", b"false", b"0", b'""', b"[]", b"{}")


@dataclass(frozen=True, slots=True)
class _Links:
    """What the parts of a datafile refer to."""

    experiments: set[schema.Scalar]
    experiments_of_flags: set[schema.Scalar]
    rollouts: set[schema.Scalar]
    rollouts_of_flags: set[schema.Scalar]
    audience_names: dict[object, object]


def check_loading(document: schema.Document) -> None:
    """Raise InvalidDatafileError where an SDK fails to load the datafile."""
    links = _links(document)
    _check_audiences(document)
    _each("experiments", document.experiments, lambda experiment: _check_experiment(experiment, links))
    for index, group in enumerate(document.groups):
        place = f"groups[{index}].experiments"
        _each(place, group.experiments, lambda experiment: _check_experiment(experiment, links))
    for index, rollout in enumerate(document.rollouts):
        _each(f"rollouts[{index}].experiments", rollout.experiments, _rule_check(rollout, links))
    _each("featureFlags", document.feature_flags, lambda flag: _check_flag(flag, links))
    _each("holdouts", document.holdouts, _check_holdout)
    _each("localHoldouts", document.local_holdouts, _check_local_holdout)


def _links(document: schema.Document) -> _Links:
    links = _Links(
        experiments={experiment.id for experiment in _experiments(document)},
        experiments_of_flags=set(),
        rollouts={rollout.id for rollout in document.rollouts},
        rollouts_of_flags=set(),
        audience_names={audience.id: _name(audience.name) for audience in document.typed_audiences},
    )
    for flag in document.feature_flags:
        links.experiments_of_flags.update(flag.experiment_ids)
        links.rollouts_of_flags.add(flag.rollout_id)
    return links


def _experiments(document: schema.Document) -> Iterator[schema.Experiment]:
    yield from document.experiments
    for group in document.groups:
        yield from group.experiments


def _name(name: Raw) -> object:
    """A text if the SDK can call the audience by it, where null is the empty text; else something that is no text."""
    return "" if bytes(name).startswith((b'"', b"null")) else name


def _each(place: str, entries: Iterable[_T], check: Callable[[_T], None]) -> None:
    for index, entry in enumerate(entries):
        try:
            check(entry)
        except InvalidDatafileError as error:
            raise error.inside(f"{place}[{index}]") from error


def _check_audiences(document: schema.Document) -> None:
    """Of several audiences with one id, the SDK loads the conditions of the last; typed ones come after the others."""
    conditions: dict[schema.Scalar, tuple[str, str | Raw]] = {}
    for index, audience in enumerate(document.audiences):
        conditions[audience.id] = f"audiences[{index}].conditions", audience.conditions
    for index, typed in enumerate(document.typed_audiences):
        conditions[typed.id] = f"typedAudiences[{index}].conditions", typed.conditions
    for place, text in conditions.values():
        try:
            check_audience_text(text) if isinstance(text, str) else check_audience(bytes(text))
        except InvalidDatafileError as error:
            raise error.inside(place) from error


def _rule_check(rollout: schema.Rollout, links: _Links) -> Callable[[schema.Rule], None]:
    """The SDK reads the audience conditions of a rollout's rules only if a flag has the rollout."""
    if rollout.id in links.rollouts_of_flags:
        return lambda rule: _check_experiment(rule, links)
    return lambda rule: _check_variables(rule, links)


def _check_experiment(experiment: schema.Experiment | schema.Rule, links: _Links) -> None:
    if conditions := bytes(experiment.audience_conditions):
        try:
            check_experiment(conditions, links.audience_names)
        except InvalidDatafileError as error:
            raise error.inside("audienceConditions") from error
    _check_variables(experiment, links)


def _check_variables(experiment: schema.Experiment | schema.Rule, links: _Links) -> None:
    """The SDK takes `"variables": null`, but not where it collects what an enabled variation of a flag sets."""
    if experiment.id not in links.experiments_of_flags:
        return
    for index, variation in enumerate(experiment.variations):
        if variation.variables is None and bytes(variation.feature_enabled) not in _NOTHING:
            raise InvalidDatafileError("null in an enabled variation", f"variations[{index}].variables")


def _check_flag(flag: schema.FeatureFlag, links: _Links) -> None:
    for index, experiment in enumerate(flag.experiment_ids):
        if experiment not in links.experiments:
            raise InvalidDatafileError(f"no experiment has the id {quoted(experiment)}", f"experimentIds[{index}]")
    if flag.rollout_id and flag.rollout_id not in links.rollouts:
        raise InvalidDatafileError(f"no rollout has the id {quoted(flag.rollout_id)}", "rolloutId")


def _check_holdout(holdout: schema.Holdout) -> None:
    """SDKs before 5.5 sort running holdouts by the flags that they include or else exclude."""
    if bytes(holdout.status) != _RUNNING:
        return
    if bytes(holdout.included_flags) not in _NOTHING:
        _check_ids(holdout.included_flags, "includedFlags")
    elif bytes(holdout.excluded_flags) != b"":
        _check_ids(holdout.excluded_flags, "excludedFlags")


def _check_local_holdout(raw: Raw) -> None:
    """Only SDKs since 5.6 know these, and they leave out, and say so, one that is local to nothing."""
    try:
        if bytes(_LOCAL_HOLDOUT.decode(raw).included_rules) in (b"", b"null"):
            return
        holdout = _HOLDOUT.decode(raw)
    except msgspec.ValidationError as error:
        raise in_words(error) from error
    if bytes(holdout.status) == _RUNNING and bytes(holdout.included_rules) not in _NOTHING:
        _check_ids(holdout.included_rules, "includedRules")


def _check_ids(ids: Raw, place: str) -> None:
    try:
        _IDS.decode(ids)
    except msgspec.ValidationError as error:
        raise InvalidDatafileError("not a list of plain values", place) from error
