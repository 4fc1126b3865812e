"""A datafile: its bytes as served, and proof that the SDK will take them.

The law: what `parse` lets through gives every supported SDK a config, and what the SDK takes is let through, but for
the exceptions that docs/decisions/0101 lists with their reasons. The bytes are never changed.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NoReturn

import msgspec
from msgspec import Raw

from datafile_sidecar.core import schema
from datafile_sidecar.core.conditions import ConditionsError, check_audience, check_experiment
from datafile_sidecar.core.text import ShapeError, check_encoding, check_shape

MAX_BYTES = 8 * 1024 * 1024

_VERSIONS = ("2", "3", "4")
_DOCUMENT = msgspec.json.Decoder(schema.Document)
_HOLDOUT = msgspec.json.Decoder(schema.Holdout)
_LOCAL_HOLDOUT = msgspec.json.Decoder(schema.LocalHoldout)
_IDS = msgspec.json.Decoder(list[schema.Scalar] | None)
_NOTHING = (b"", b"null", b"false", b"0", b'""', b"[]", b"{}")


@dataclass(frozen=True, slots=True)
class Datafile:
    """A datafile that the SDK takes. `sha256` is the hex digest of `body`, the bytes as served."""

    body: bytes = field(repr=False)
    revision: int
    sha256: str
    project_id: str | None

    @property
    def size(self) -> int:
        """Length of the body in bytes."""
        return len(self.body)


class InvalidDatafileError(ValueError):
    """Bytes that must not be published. `reason` names the place and the fault, for people."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"The datafile is not usable: {self.reason}."


def parse(body: bytes, sdk_key: str) -> Datafile:
    """Validate the bytes of a datafile that was fetched for `sdk_key`.

    Raises InvalidDatafileError, and nothing else, when they are not a datafile, not one that every supported SDK
    takes, or another key's.
    """
    try:
        document = _decode(body)
        _check_head(document, sdk_key)
        _check_audiences(document)
        _check_experiments(document)
        _check_flags(document)
        _check_holdouts(document)
    except msgspec.ValidationError as error:
        raise InvalidDatafileError(_words(str(error))) from error
    except msgspec.DecodeError as error:
        raise InvalidDatafileError(f"not strict JSON ({error})") from error
    except ShapeError as error:
        raise InvalidDatafileError(str(error)) from error
    except RecursionError as error:
        raise InvalidDatafileError("nested too deeply") from error
    digest = hashlib.sha256(body).hexdigest()
    return Datafile(body=body, revision=int(document.revision), sha256=digest, project_id=document.project_id)


def _decode(body: bytes) -> schema.Document:
    if len(body) > MAX_BYTES:
        raise InvalidDatafileError(f"larger than {MAX_BYTES} bytes")
    if body.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise InvalidDatafileError("starts with a byte order mark")
    if not re.match(rb"[ \t\r\n]*\{", body):
        raise InvalidDatafileError("not a JSON object" if body.strip() else "empty")
    check_encoding(body)
    check_shape(body)
    return _DOCUMENT.decode(body)


def _check_head(document: schema.Document, sdk_key: str) -> None:
    if document.version not in _VERSIONS:
        raise InvalidDatafileError(f"version: {_quote(document.version)} is not supported, only 2, 3 and 4 are")
    if not re.fullmatch("[0-9]{1,15}", document.revision):
        raise InvalidDatafileError(f"revision: {_quote(document.revision)} is not a decimal number of 1 to 15 digits")
    if document.sdk_key and document.sdk_key != sdk_key:
        raise InvalidDatafileError(f"sdkKey: {_quote(document.sdk_key)} is another key's, expected {sdk_key}")


def _check_audiences(document: schema.Document) -> None:
    texts: dict[schema.Scalar, tuple[str, bytes]] = {}
    for index, audience in enumerate(document.audiences):
        texts[audience.id] = f"audiences[{index}].conditions", audience.conditions.encode()
    for index, typed in enumerate(document.typed_audiences):
        texts[typed.id] = f"typedAudiences[{index}].conditions", bytes(typed.conditions)
    for place, text in texts.values():
        try:
            check_audience(text)
        except (ConditionsError, ShapeError) as error:
            raise InvalidDatafileError(f"{place}: {error}") from error


def _check_experiments(document: schema.Document) -> None:
    names = {audience.id: _name(audience.name) for audience in document.typed_audiences}
    in_flags = {exp for flag in document.feature_flags for exp in flag.experiment_ids}
    delivered = {flag.rollout_id for flag in document.feature_flags}
    for place, experiment in _experiments(document):
        _check_conditions(place, experiment.audience_conditions, names)
        _check_variables(place, experiment, in_flags)
    for index, rollout in enumerate(document.rollouts):
        for number, rule in enumerate(rollout.experiments):
            place = f"rollouts[{index}].experiments[{number}]"
            if rollout.id in delivered:
                _check_conditions(place, rule.audience_conditions, names)
            _check_variables(place, rule, in_flags)


def _name(raw: Raw) -> object:
    if raw == b"null":
        return ""
    return "name" if bytes(raw).startswith(b'"') else None


def _experiments(document: schema.Document) -> Iterator[tuple[str, schema.Experiment]]:
    for index, experiment in enumerate(document.experiments):
        yield f"experiments[{index}]", experiment
    for index, group in enumerate(document.groups):
        for number, experiment in enumerate(group.experiments):
            yield f"groups[{index}].experiments[{number}]", experiment


def _check_conditions(place: str, conditions: Raw, names: dict[schema.Scalar, object]) -> None:
    if conditions:
        try:
            check_experiment(bytes(conditions), names)
        except ConditionsError as error:
            raise InvalidDatafileError(f"{place}.audienceConditions: {error}") from error


def _check_variables(place: str, experiment: schema.Experiment | schema.Rule, in_flags: set[schema.Scalar]) -> None:
    """The SDK takes `"variables": null`, but not where it collects what an enabled variation of a flag sets."""
    if experiment.id not in in_flags:
        return
    for index, variation in enumerate(experiment.variations):
        if variation.variables is None and variation.feature_enabled not in _NOTHING:
            raise InvalidDatafileError(f"{place}.variations[{index}].variables: null in an enabled variation")


def _check_flags(document: schema.Document) -> None:
    experiments = {experiment.id for _, experiment in _experiments(document)}
    rollouts = {rollout.id for rollout in document.rollouts}
    for index, flag in enumerate(document.feature_flags):
        for number, experiment in enumerate(flag.experiment_ids):
            if experiment not in experiments:
                _dangling(f"featureFlags[{index}].experimentIds[{number}]", "experiment", experiment)
        if flag.rollout_id and flag.rollout_id not in rollouts:
            _dangling(f"featureFlags[{index}].rolloutId", "rollout", flag.rollout_id)


def _dangling(place: str, kind: str, key: schema.Scalar) -> NoReturn:
    raise InvalidDatafileError(f"{place}: no {kind} has the id {_quote(key)}")


def _check_holdouts(document: schema.Document) -> None:
    for index, holdout in enumerate(document.holdouts):
        _check_holdout(f"holdouts[{index}]", holdout)
    for index, raw in enumerate(document.local_holdouts):
        place = f"localHoldouts[{index}]"
        try:
            if _LOCAL_HOLDOUT.decode(raw).included_rules not in (b"", b"null"):
                _check_holdout(place, _HOLDOUT.decode(raw))
        except msgspec.ValidationError as error:
            raise InvalidDatafileError(_words(str(error), place)) from error


def _check_holdout(place: str, holdout: schema.Holdout) -> None:
    if holdout.status != b'"Running"':
        return
    for name in ("included_flags", "excluded_flags", "included_rules"):
        raw = getattr(holdout, name)
        if raw not in _NOTHING:
            _IDS.decode(raw)


def _words(message: str, place: str = "") -> str:
    """Turn msgspec's "Expected `str`, got `int` - at `$.featureFlags[3].key`" into place and fault."""
    fault, _, path = message.partition(" - at `$")
    place = (place + path.rstrip("`")).lstrip(".")
    if missing := re.fullmatch("Object missing required field `(.+)`", fault):
        return f"{place}.{missing[1]}: missing".lstrip(".")
    fault = fault.replace("`", "")
    fault = fault[:1].lower() + fault[1:]
    return f"{place}: {fault}" if place else fault


def _quote(value: schema.Scalar) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
