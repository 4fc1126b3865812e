"""Random pairs of datafiles: where the difference has no words, the real SDK decides the same on both sides.

Run `python -m tests.differences --pairs 5000 --seed 1` (or `make differences`). What is made of a project is in
`tests.random_projects`. Users have every attribute, with the values that audiences ask for, and lie beside the edges of buckets.
"""

import argparse
import copy
import json
import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

from optimizely.bucketer import Bucketer
from optimizely.cmab.cmab_service import DefaultCmabService
from optimizely.decision.optimizely_decide_option import OptimizelyDecideOption
from optimizely.event.event_processor import BaseEventProcessor
from optimizely.helpers.sdk_settings import OptimizelySdkSettings
from optimizely.optimizely import Optimizely

from datafile_sidecar.core import datafile
from datafile_sidecar.core.difference import difference
from tests.random_projects import ATTRIBUTES, EDITS, REWRITES, SEGMENTS, USERS, Json, project, rules

_OPTIONS = [OptimizelyDecideOption.DISABLE_DECISION_EVENT, OptimizelyDecideOption.IGNORE_USER_PROFILE_SERVICE]
_BUCKETS = Bucketer()
_SILENT = logging.Logger("tests.differences", logging.CRITICAL + 1)
_PLAIN_USERS = 8
_USERS_AT_EDGES = 8


class NoEvents(BaseEventProcessor):
    """Takes events and drops them."""

    def process(self, _: Any) -> None:
        """Drop an event."""


class NoBandit(DefaultCmabService):
    """Knows no prediction for any bandit."""

    def __init__(self) -> None:
        """Need nothing."""

    def get_decision(self, *_: Any) -> Any:
        """Fail, as without a network."""
        raise ConnectionError


@dataclass
class Result:
    """What was seen of all pairs. `wrong` are the pairs that decide otherwise, although the difference has no words."""

    pairs: int = 0
    deciding: int = 0
    empty: int = 0
    wrong: list[str] = field(default_factory=list)


def compare_pairs(pairs: int, seed: int) -> Result:
    """Make pairs, and let the SDK decide on both sides of each."""
    result = Result()
    for number in range(pairs):
        random = Random(f"{seed} {number}")
        before, after = _pair(random)
        words = difference(_bytes(before, None), _bytes(after, random))
        differs = _first_difference(before, after, random)
        result.pairs += 1
        result.empty += not words
        result.deciding += differs is not None
        if differs is not None and not words:
            result.wrong.append(f"pair {number} of seed {seed}: {differs}")
    return result


def _pair(random: Random) -> tuple[Json, Json]:
    before = project(random)
    after = copy.deepcopy(before)
    after["revision"] = "43"
    for change in random.sample(REWRITES, random.randrange(3)):
        change(after, random)
    for change in random.choices(EDITS, k=random.choice([0, 0, 1, 1, 1, 2])):
        change(after, random)
    for one in (before, after):
        datafile.parse(_bytes(one, None), "KEY1")
    return before, after


def _bytes(one: Json, random: Random | None) -> bytes:
    return json.dumps(one, indent=random.choice([None, 2]) if random else None).encode()


def _first_difference(before: Json, after: Json, random: Random) -> str | None:
    """Return the first decision that differs, None where all are the same."""
    sides = [_optimizely(before), _optimizely(after)]
    keys = sorted({flag["key"] for one in (before, after) for flag in one["featureFlags"]})
    for user, attributes, segments in _users(before, after, random):
        decided = [_decisions(side, user, attributes, segments, keys) for side in sides]
        if decided[0] != decided[1]:
            return f"{user} with {attributes} and {segments}: {decided[0]} and {decided[1]}"
    return None


def _optimizely(one: Json) -> Optimizely:
    instance = Optimizely(
        json.dumps(one),
        logger=_SILENT,
        skip_json_validation=True,
        event_processor=NoEvents(),
        settings=OptimizelySdkSettings(odp_disabled=True),
        cmab_service=NoBandit(),
    )
    assert instance.config_manager.get_config() is not None
    return instance


def _decisions(side: Optimizely, user: str, attributes: Json, segments: list[str], keys: list[str]) -> list[Any]:
    typed: Any = attributes
    context = side.create_user_context(user, typed)
    assert context is not None
    context.set_qualified_segments(segments)
    decisions = context.decide_for_keys(keys, _OPTIONS)
    return [
        *((key, one.variation_key, one.enabled, one.variables, one.rule_key) for key, one in decisions.items()),
        side.get_variation("key_legacy", user, typed),
    ]


def _users(before: Json, after: Json, random: Random) -> Iterator[tuple[str, Json, list[str]]]:
    names = [*USERS, *(f"user-{random.randrange(10**6)}" for _ in range(_PLAIN_USERS - len(USERS)))]
    names += (_user_at(random, *random.choice(_edges(before, after))) for _ in range(_USERS_AT_EDGES))
    for name in names:
        attributes = {key: random.choice(values) for key, values in ATTRIBUTES.items()}
        yield name, attributes, [one for one in SEGMENTS if random.random() < 0.5]


def _edges(before: Json, after: Json) -> list[tuple[str, int, int]]:
    """Return what users are distributed by, with the buckets on both sides of an edge; where edges have moved, between them."""
    ends = [_ends(before), _ends(after)]
    moved = [
        (parent, min(one[parent, index] for one in ends), max(one[parent, index] for one in ends))
        for parent, index in ends[0].keys() & ends[1].keys()
        if ends[0][parent, index] != ends[1][parent, index]
    ]
    around = [(parent, end - 30, end + 30) for (parent, _), end in ends[1].items()]
    return sorted(moved) * 5 + around


def _ends(one: Json) -> dict[tuple[str, int], int]:
    parents = [*rules(one), *one["groups"], *one["holdouts"], *one["localHoldouts"]]
    return {
        (parent["id"], index): allocation["endOfRange"]
        for parent in parents
        for index, allocation in enumerate(parent["trafficAllocation"])
    }


def _user_at(random: Random, parent: str, low: int, high: int) -> str:
    """Return a user whose bucket lies there, or any where a few hundred tries find none."""
    name = ""
    for _ in range(300):
        name = f"user-{random.randrange(10**9)}"
        if low <= _BUCKETS._generate_bucket_value(f"{name}{parent}") < high:
            break
    return name


def main(argv: list[str]) -> int:
    """Compare pairs, and say what was seen. Returns 1 where a difference without words decides something."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(argv)
    result = compare_pairs(options.pairs, options.seed)
    print(
        f"{result.pairs} pairs: {result.deciding} decide otherwise, {result.empty} have no words; wrong: {len(result.wrong)}"
    )
    print("\n".join(result.wrong[:10]))
    return 1 if result.wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
