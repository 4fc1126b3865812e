"""Checks of references and conditions in a datafile of the right shape.

Each check stands for a line of the SDK that raises while it loads a datafile. The SDK swallows some of these errors, has
no config then and turns every flag off. Its constructor raises the others.
"""

from collections.abc import Callable, Iterable
from functools import partial
from itertools import chain
from typing import TypeVar

import msgspec
from msgspec import Raw

from datafile_sidecar.core.datafile import lazy_lists, schema
from datafile_sidecar.core.datafile.audience_conditions import check_audience, check_experiment, check_typed_audience
from datafile_sidecar.core.datafile.errors import InvalidDatafileError, from_validation_error, quoted

_T = TypeVar("_T")
_HOLDOUT = msgspec.json.Decoder(schema.Holdout)
_LOCAL_HOLDOUT = msgspec.json.Decoder(schema.LocalHoldout)
_IDS = msgspec.json.Decoder(list[schema.Scalar])
_RUNNING = b'"Running"'
_FALSY = (b"", b"null", b"false", b"0", b'""', b"[]", b"{}")


class _Ids:
    """The ids in a datafile, those that flags refer to, and the names of typed audiences."""

    def __init__(self, outline: schema.Outline) -> None:
        grouped = (group.experiments for group in outline.groups)
        experiments = chain(lazy_lists.experiments(outline.experiments), *grouped)
        self.experiments = {experiment.id for experiment in experiments}
        self.rollouts = {rollout.id for rollout in lazy_lists.rollouts(outline.rollouts)}
        audiences = lazy_lists.typed_audiences(outline.typed_audiences)
        self.audience_names: dict[object, object] = {one.id: _display_name(one.name) for one in audiences}
        self.experiments_of_flags: set[schema.Scalar] = set()
        self.rollouts_of_flags: set[schema.Scalar] = set()
        for flag in lazy_lists.feature_flags(outline.feature_flags):
            self.experiments_of_flags.update(flag.experiment_ids)
            self.rollouts_of_flags.add(flag.rollout_id)


def check_references(outline: schema.Outline) -> None:
    """Check whatever the SDK looks at beyond the shape while it loads a datafile.

    Raises:
        InvalidDatafileError: One of the supported SDKs fails to load it.
    """
    ids = _Ids(outline)
    _check_audiences(outline)
    _check_each("experiments", lazy_lists.experiments(outline.experiments), partial(_check_experiment, ids=ids))
    for index, group in enumerate(outline.groups):
        _check_each(f"groups[{index}].experiments", group.experiments, partial(_check_experiment, ids=ids))
    for index, rollout in enumerate(lazy_lists.rollouts(outline.rollouts)):
        # The SDK reads the audience conditions of rules only if a flag uses their rollout.
        check = _check_experiment if rollout.id in ids.rollouts_of_flags else _check_variables
        _check_each(f"rollouts[{index}].experiments", rollout.experiments, partial(check, ids=ids))
    _check_each("featureFlags", lazy_lists.feature_flags(outline.feature_flags), partial(_check_flag, ids=ids))
    _check_each("holdouts", outline.holdouts, _check_holdout)
    _check_each("localHoldouts", outline.local_holdouts, _check_local_holdout)


def _display_name(name: Raw) -> object:
    """Return a string if the SDK can show this name, where null counts as an empty one. Otherwise return the raw JSON."""
    return "" if bytes(name).startswith((b'"', b"null")) else name


def _check_each(path: str, entries: Iterable[_T], check: Callable[[_T], None]) -> None:
    for index, entry in enumerate(entries):
        try:
            check(entry)
        except InvalidDatafileError as error:
            raise error.under(f"{path}[{index}]") from error


def _check_audiences(outline: schema.Outline) -> None:
    """Check the conditions that the SDK loads: of several audiences with one id, the last. Typed audiences come later."""
    conditions: dict[schema.Scalar, tuple[str, str | Raw]] = {}
    for index, audience in enumerate(outline.audiences):
        conditions[audience.id] = f"audiences[{index}].conditions", audience.conditions
    for index, typed in enumerate(lazy_lists.typed_audiences(outline.typed_audiences)):
        conditions[typed.id] = f"typedAudiences[{index}].conditions", typed.conditions
    for path, text in conditions.values():
        try:
            check_audience(text) if isinstance(text, str) else check_typed_audience(bytes(text))
        except InvalidDatafileError as error:
            raise error.under(path) from error


def _check_experiment(experiment: schema.Experiment | schema.Rule, ids: _Ids) -> None:
    if conditions := bytes(experiment.audience_conditions):
        try:
            check_experiment(conditions, ids.audience_names)
        except InvalidDatafileError as error:
            raise error.under("audienceConditions") from error
    _check_variables(experiment, ids)


def _check_variables(experiment: schema.Experiment | schema.Rule, ids: _Ids) -> None:
    """Refuse `"variables": null` where the SDK collects the variables of a flag's enabled variation; elsewhere it is fine."""
    if experiment.id not in ids.experiments_of_flags:
        return
    for index, variation in enumerate(experiment.variations):
        if variation.variables is None and bytes(variation.feature_enabled) not in _FALSY:
            raise InvalidDatafileError("null in an enabled variation", f"variations[{index}].variables")


def _check_flag(flag: schema.FeatureFlag, ids: _Ids) -> None:
    for index, experiment in enumerate(flag.experiment_ids):
        if experiment not in ids.experiments:
            raise InvalidDatafileError(f"no experiment has the id {quoted(experiment)}", f"experimentIds[{index}]")
    if flag.rollout_id and flag.rollout_id not in ids.rollouts:
        raise InvalidDatafileError(f"no rollout has the id {quoted(flag.rollout_id)}", "rolloutId")


def _check_holdout(holdout: schema.Holdout) -> None:
    """Check the flags that a running holdout includes or else excludes: SDKs before 5.5 iterate over them."""
    if bytes(holdout.status) != _RUNNING:
        return
    if bytes(holdout.included_flags) not in _FALSY:
        _check_ids(holdout.included_flags, "includedFlags")
    elif bytes(holdout.excluded_flags) != b"":
        _check_ids(holdout.excluded_flags, "excludedFlags")


def _check_local_holdout(raw: Raw) -> None:
    """Check a local holdout, which only SDKs since 5.6 load. They skip, with a log line, one without `includedRules`."""
    try:
        if bytes(_LOCAL_HOLDOUT.decode(raw).included_rules) in (b"", b"null"):
            return
        holdout = _HOLDOUT.decode(raw)
    except msgspec.ValidationError as error:
        raise from_validation_error(error) from error
    if bytes(holdout.status) == _RUNNING and bytes(holdout.included_rules) not in _FALSY:
        _check_ids(holdout.included_rules, "includedRules")


def _check_ids(ids: Raw, path: str) -> None:
    try:
        _IDS.decode(ids)
    except msgspec.ValidationError as error:
        raise InvalidDatafileError("not a list of plain values", path) from error
