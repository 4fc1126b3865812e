"""The shape of a datafile that the SDK needs, as types that a C decoder checks while it decodes.

The types cover what the SDK's JSON schema requires, and what its code requires although the schema does not: feature
flags, rollouts, typed audiences, variables and holdouts. Fields that the SDK does not use while it loads are left out, or
kept raw if they only have to exist. Unknown fields are skipped.

Lists that the SDK turns into objects by `Class(**entry)` hold an `Entity`. Where its code only needs a hashable value,
the type is `Scalar`: a number as an id is odd, but must not hold back a kill switch.
"""

from typing import Annotated

from msgspec import UNSET, Meta, Raw, Struct, UnsetType, field

Scalar = str | int | float | bool | None
Never = Annotated[int, Meta(gt=0, lt=0)]

ABSENT = Raw(b"")
NO_ENTRIES = Raw(b"[]")


class Entity(Struct, gc=False, kw_only=True):
    """An object whose fields become keyword arguments of a constructor, where one named `self` is an error."""

    self_: Never = field(name="self", default=0)


class AnyObject(Struct, gc=False):
    """An object with any content."""


class VariableUsage(Entity, gc=False, kw_only=True):
    """The value that one variation gives to one variable."""

    id: Scalar
    value: Raw


class RuleVariation(Entity, gc=False, kw_only=True):
    """A variation of a delivery rule, which the SDK's schema does not check."""

    id: Scalar
    key: Scalar
    variables: list[VariableUsage] | UnsetType | None = UNSET
    feature_enabled: Raw = field(name="featureEnabled", default=ABSENT)


class Variation(RuleVariation, gc=False, kw_only=True):
    """A variation of an experiment."""

    id: str
    key: str


class TrafficAllocation(Struct, gc=False, rename="camel"):
    """The end of one bucket range."""

    entity_id: str
    end_of_range: int


class Experiment(Entity, gc=False, kw_only=True, rename="camel"):
    """An experiment, alone or in a group."""

    id: str
    key: str
    layer_id: str
    status: str
    variations: list[Variation]
    traffic_allocation: list[TrafficAllocation]
    audience_ids: list[str]
    forced_variations: AnyObject
    audience_conditions: Raw = ABSENT


class Rule(Entity, gc=False, kw_only=True, rename="camel"):
    """A delivery rule of a rollout: an experiment that the SDK's schema does not check."""

    id: Scalar
    key: Scalar
    layer_id: Raw
    status: Raw
    variations: list[RuleVariation]
    traffic_allocation: Raw
    audience_ids: Raw
    forced_variations: Raw
    audience_conditions: Raw = ABSENT


class Rollout(Entity, gc=False, kw_only=True):
    """The delivery rules of a flag."""

    id: Scalar
    experiments: list[Rule]


class Group(Entity, gc=False, kw_only=True, rename="camel"):
    """Experiments that exclude each other."""

    id: str
    policy: str
    traffic_allocation: list[TrafficAllocation]
    experiments: list[Experiment]


class FlagVariable(Entity, gc=False, kw_only=True, rename="camel"):
    """A variable of a flag."""

    id: Scalar
    key: Scalar
    type: Raw
    default_value: Raw


class FeatureFlag(Entity, gc=False, kw_only=True, rename="camel"):
    """A flag, which the SDK's schema does not check."""

    id: Scalar
    key: Scalar
    experiment_ids: list[Scalar]
    rollout_id: str
    variables: list[FlagVariable]


class Event(Entity, gc=False, kw_only=True, rename="camel"):
    """A conversion event."""

    id: str
    key: str
    experiment_ids: list[str]


class Attribute(Entity, gc=False, kw_only=True):
    """An attribute of users."""

    id: str
    key: str


class Audience(Entity, gc=False, kw_only=True):
    """An audience whose conditions are JSON within a string."""

    id: str
    name: str
    conditions: str


class TypedAudience(Entity, gc=False, kw_only=True):
    """An audience whose conditions are JSON, which the SDK's schema does not check."""

    id: Scalar
    name: Raw
    conditions: Raw


class Integration(Entity, gc=False, kw_only=True, rename="camel"):
    """A third party, such as the data platform."""

    key: str
    host: str = ""
    public_key: str = ""


class HoldoutVariation(Struct, gc=False):
    """A variation of a holdout."""

    id: Scalar
    key: Scalar


class Holdout(Entity, gc=False, kw_only=True, rename="camel"):
    """A holdout; SDKs before 5.5 read its `included_flags` and `excluded_flags`, those since 5.6 `included_rules`."""

    id: Scalar
    key: Scalar
    status: Raw
    variations: list[HoldoutVariation] | None
    traffic_allocation: Raw
    audience_ids: Raw
    included_flags: Raw = ABSENT
    excluded_flags: Raw = ABSENT
    included_rules: Raw = ABSENT


class LocalHoldout(Struct, gc=False, rename="camel"):
    """The field that decides whether the SDK loads a local holdout at all."""

    included_rules: Raw = ABSENT


class VersionOnly(Struct, gc=False):
    """The version alone, which distinguishes a datafile of an unsupported version from a broken one."""

    version: str


class Outline(Struct, gc=False, kw_only=True, rename="camel"):
    """A datafile whose long lists are not decoded yet."""

    version: str
    revision: str
    project_id: str
    account_id: str
    groups: list[Group]
    events: list[Event]
    audiences: list[Audience]
    attributes: list[Attribute]
    sdk_key: str | None = None
    environment_key: Raw = ABSENT
    integrations: list[Integration] = []
    holdouts: list[Holdout] = []
    local_holdouts: list[Raw] = []
    experiments: Raw
    typed_audiences: Raw = NO_ENTRIES
    feature_flags: Raw = NO_ENTRIES
    rollouts: Raw = NO_ENTRIES
