"""One decision and its reasons: what the app's SDK decides, and what was not asked."""

import json
from pathlib import Path
from typing import Any

import pytest
from optimizely.helpers.sdk_settings import OptimizelySdkSettings
from optimizely.optimizely import Optimizely

from datafile_client._datafile_reader import FileContent
from datafile_client._explanation import explain
from datafile_client.errors import InvalidDatafileError
from datafile_client.testing import make_datafile
from tests.datafiles import realistic

ATTRIBUTES: Any = {"attribute_0": "gold", "attribute_2": 18.5, "attribute_4": "2.1.0", "attribute_3": None}


def content(data: bytes | dict[str, Any]) -> FileContent:
    body = data if isinstance(data, bytes) else json.dumps(data).encode()
    return FileContent(Path("KEY1.json"), body, "")


@pytest.mark.parametrize("user", ["user-1", "user-5", "qa-user-1"])
@pytest.mark.parametrize("flag", ["feature_0", "feature_1", "feature_2"])
def test_as_the_app_decides(flag: str, user: str) -> None:
    """Variation, rule, variables and reasons are those of the app's SDK, for each kind of rule."""
    one = explain(content(realistic(20, 43)), flag, user, ATTRIBUTES, None)
    sdk = Optimizely(realistic(20, 43).decode(), settings=OptimizelySdkSettings(odp_disabled=True))
    context = sdk.create_user_context(user, ATTRIBUTES)
    assert context is not None
    decision = context.decide(flag, ["DISABLE_DECISION_EVENT", "INCLUDE_REASONS"])
    assert one.decided == (True, decision.enabled, decision.variation_key, decision.rule_key, decision.variables)
    assert list(one.reasons) == decision.reasons
    assert one.revision == "43"
    sdk.close()


def test_bandit() -> None:
    """Where a contextual bandit would choose the variation, that is said, and nothing is asked."""
    data = json.loads(realistic(20, 43))
    data["holdouts"] = data["localHoldouts"] = []
    data["experiments"][0] |= {"audienceIds": [], "audienceConditions": []}
    data["experiments"][0]["cmab"]["trafficAllocation"] = 10000
    one = explain(content(data), "feature_0", "user-1", {}, [])
    assert one.variation is None
    assert any("the contextual bandit of the experiment" in what for what in one.not_asked)


def test_segments() -> None:
    """A segment that is named counts, and then ODP is not missed."""
    data = json.loads(make_datafile({"checkout": True}))
    condition = {"type": "third_party_dimension", "name": "odp.audiences", "match": "qualified", "value": "vip"}
    data["typedAudiences"] = [{"id": "a1", "name": "VIP", "conditions": ["or", condition]}]
    data["rollouts"][0]["experiments"][0]["audienceIds"] = ["a1"]
    inside, outside, unknown = (explain(content(data), "checkout", "u", {}, one) for one in (["vip"], ["other"], None))
    assert (inside.enabled, outside.enabled, unknown.enabled) == (True, False, False)
    assert [any("ODP" in what for what in one.not_asked) for one in (inside, outside, unknown)] == [False, False, True]


def test_any_sdk_key() -> None:
    """A datafile of any SDK key can be explained, and a flag that it does not have is off."""
    one = explain(content(make_datafile({"checkout": True}, sdk_key="another")), "nothing", "user-1", {}, None)
    assert (one.is_known, one.enabled, one.rule) == (False, False, None)


def test_unusable() -> None:
    """A datafile that the SDK can't use is refused by its path."""
    with pytest.raises(InvalidDatafileError, match=r"KEY1\.json"):
        explain(content(b"[]"), "checkout", "user-1", {}, None)
