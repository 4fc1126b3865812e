"""One decision of the SDK by one datafile, with its reasons. No server is asked: whatever would ask one is named instead."""

import contextlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optimizely.decision.optimizely_decide_option import OptimizelyDecideOption
from optimizely.helpers.sdk_settings import OptimizelySdkSettings

from datafile_client._datafile_reader import FileContent
from datafile_client._instance_builder import InstanceBuilder

_OPTIONS = [
    OptimizelyDecideOption.DISABLE_DECISION_EVENT,
    OptimizelyDecideOption.IGNORE_USER_PROFILE_SERVICE,
    OptimizelyDecideOption.INCLUDE_REASONS,
]
_APP_ONLY = "what only the app knows: its user profiles, forced decisions and forced variations"


@dataclass(frozen=True, slots=True)
class Explanation:
    """A decision: `rule` is the key of the rule that made it, None where none did. `log` is what the SDK logged, in its words."""

    path: Path
    revision: str
    is_known: bool
    variation: str | None
    enabled: bool
    rule: str | None
    variables: Mapping[str, Any]
    reasons: Sequence[str]
    not_asked: Sequence[str]
    log: Sequence[str] = field(repr=False)

    @property
    def decided(self) -> tuple[Any, ...]:
        """What the app would notice of the decision."""
        return self.is_known, self.enabled, self.variation, self.rule, self.variables


def explain(
    content: FileContent, flag: str, user: str, attributes: Mapping[str, Any], segments: Sequence[str] | None
) -> Explanation:
    """Decide about a flag for a user, as the app does.

    Args:
        content: a datafile of any SDK key.
        flag: the flag's key.
        user: the user's id.
        attributes: the user's attributes.
        segments: the segments of ODP that the user is in; None where they are not known.

    Raises:
        InvalidDatafileError: the SDK cannot use this datafile.
    """
    kept, bandit = _KeptLog(), _NoBandit()
    builder = InstanceBuilder(_sdk_key(content.data), _components(kept, bandit))
    built = builder.build(content.data, content.sha256, content.path, prevalidated=content.prevalidated)
    optimizely: Any = built.optimizely
    context = optimizely.create_user_context(user, dict(attributes))
    context.set_qualified_segments(list(segments or ()))
    decision = context.decide(flag, _OPTIONS)
    config = optimizely.config_manager.get_config()
    not_asked = [_APP_ONLY]
    if bandit.was_asked:
        not_asked.append("the contextual bandit of the experiment, so that its variation is not known")
    if segments is None and config.all_segments:
        not_asked.append("ODP, for the user's segments: name them with --segment")
    return Explanation(
        path=content.path,
        revision=config.revision,
        is_known=flag in config.feature_key_map,
        variation=decision.variation_key,
        enabled=decision.enabled,
        rule=decision.rule_key,
        variables=decision.variables,
        reasons=tuple(decision.reasons),
        not_asked=tuple(not_asked),
        log=tuple(kept.lines),
    )


def _sdk_key(data: bytes) -> str:
    with contextlib.suppress(ValueError, AttributeError):
        return str(json.loads(data).get("sdkKey") or "")
    return ""


def _components(log: "_KeptLog", bandit: "_NoBandit") -> dict[str, Any]:
    logger = logging.Logger("datafile_client.explain", logging.DEBUG)
    logger.addHandler(log)
    settings = OptimizelySdkSettings(odp_disabled=True)
    return {"logger": logger, "settings": settings, "event_processor": _NoEvents(), "cmab_service": bandit}


class _NoEvents:
    """Drops all events."""

    def process(self, _: Any) -> None:
        """Drop an event."""


class _NoBandit:
    """Stands for the service that predicts a bandit's variation, and asks nothing."""

    def __init__(self) -> None:
        self.was_asked = False

    def get_decision(self, *_: Any) -> Any:
        """Note that the service would be asked. The SDK turns the error into a reason."""
        self.was_asked = True
        raise ConnectionError("not asked")


class _KeptLog(logging.Handler):
    """Keeps what the SDK logs."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one line."""
        self.lines.append(record.getMessage())
