"""Audience conditions are judged as the real SDK judges them."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.sidecar.core.datafile.sdk_verdict import EMPTY, EXPERIMENT, FLAG, MANY, QUALIFIED_LIST, check_same_verdict

LEAVES: list[Any] = [
    "and", "or", "not", "a1", "a2", "a3", "unknown", "", None, 1, 1.0, True, 2.5, {}, {"a": 1}, QUALIFIED_LIST,
    {"match": "qualified", "value": "segment"}, {"match": "exact", "value": []}, {"x": QUALIFIED_LIST},
    {"match": "qualified", "value": QUALIFIED_LIST}, {"match": "qualified"}, '{"[', "\\",
]  # fmt: skip
TREES = st.recursive(st.sampled_from(LEAVES), lambda inner: st.lists(inner, max_size=4), max_leaves=8)
WORDS = TREES.map(lambda tree: json.dumps(tree, indent=1)) | st.sampled_from(
    ["", "[", "\ufeff[]", "[] x", "[NaN]", " 5 "]
)
NAMED = st.tuples(st.sampled_from(["a1", "a2", "", 1, None]), st.sampled_from(["A", "", None, 5, ["A"], {}]), TREES)


@MANY
@given(st.lists(NAMED, max_size=2), WORDS, TREES, TREES, st.booleans())
def test_conditions_are_read_as_the_sdk_reads_them(
    typed: list[tuple[Any, Any, Any]], old: str, of_experiment: Any, of_rule: Any, delivered: bool
) -> None:
    """Targeting that trips the SDK never reaches an app, and targeting that is merely odd does."""
    root = EMPTY | {
        "audiences": [{"id": "a2", "name": "A2", "conditions": old}],
        "typedAudiences": [dict(zip(("id", "name", "conditions"), audience, strict=True)) for audience in typed],
        "experiments": [{**EXPERIMENT, "audienceConditions": of_experiment}],
        "rollouts": [{"id": "r1", "experiments": [{**EXPERIMENT, "id": "e2", "audienceConditions": of_rule}]}],
        "featureFlags": [{**FLAG, "rolloutId": "r1" if delivered else ""}],
    }
    check_same_verdict(root)
