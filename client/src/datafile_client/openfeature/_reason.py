"""Why a user gets what they get, in OpenFeature's words."""

from openfeature.flag_evaluation import Reason
from optimizely.decision.optimizely_decision import OptimizelyDecision
from optimizely.entities import Experiment, FeatureFlag
from optimizely.project_config import ProjectConfig

_ALL = 10000


def rules_of(config: ProjectConfig, flag: FeatureFlag) -> list[Experiment]:
    """Return the flag's rules in the order in which the SDK looks at them: experiments that run, then deliveries."""
    rollout = config.rollout_id_map.get(flag.rolloutId)
    experiments = [config.experiment_id_map[one] for one in flag.experimentIds if one in config.experiment_id_map]
    deliveries = [config.experiment_id_map[one["id"]] for one in (rollout.experiments if rollout else [])]
    return [one for one in experiments if one.status == "Running"] + deliveries


def reason_of(config: ProjectConfig, flag: FeatureFlag, decision: OptimizelyDecision, user_id: str) -> Reason:
    """Return the reason for a decision.

    - DISABLED: the flag has no rule, or one rule that turns it off for everybody.
    - STATIC: it has one rule, which is the same for everybody.
    - DEFAULT: no rule was for this user, or the last one, which is for everybody else.
    - TARGETING_MATCH: a rule for this user, or for an audience with this user.
    - SPLIT: an A/B test, a rule for a percentage, or a holdout.
    """
    rules = rules_of(config, flag)
    if decision.rule_key is None:
        return Reason.DEFAULT if rules else Reason.DISABLED
    rule = next((one for one in rules if one.key == decision.rule_key), None)
    if rule is None or (_is_split(rule) and user_id not in rule.forcedVariations):
        return Reason.SPLIT
    if rule.get_audience_conditions_or_ids() or user_id in rule.forcedVariations:
        return Reason.TARGETING_MATCH
    if len(rules) > 1:
        return Reason.DEFAULT
    return Reason.STATIC if decision.enabled else Reason.DISABLED


def waits(config: ProjectConfig, flag: FeatureFlag) -> bool:
    """Tell whether a decision may ask a server: a contextual bandit's first one for a user does."""
    return any(getattr(rule, "cmab", None) for rule in rules_of(config, flag))


def _is_split(rule: Experiment) -> bool:
    traffic = rule.trafficAllocation
    parts = {part["entityId"] for part in traffic}
    return bool(getattr(rule, "cmab", None)) or len(parts) != 1 or traffic[-1]["endOfRange"] < _ALL
