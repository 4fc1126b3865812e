"""Run both state machines for a long time: `python -m tests.machines --steps 1000000 --seed 1`.

Each step is one random event in virtual time, after which every invariant is checked; each run ends with all that must be true when
it is quiet. A failure prints the steps that lead to it, and ends with status 1.
"""

import argparse
import time
from typing import ClassVar

from hypothesis import HealthCheck, Phase, core, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, run_state_machine_as_test

from tests.sidecar.sync.test_fleet_machine import AnyFleet
from tests.sidecar.sync.test_syncer_machine import AnyOrder

_EXAMPLES_AT_ONCE = 200
_STEPS_OF_AN_EXAMPLE = 50


def counted(machine: type[RuleBasedStateMachine]) -> type[RuleBasedStateMachine]:
    """The same machine, which counts its steps in `steps`."""

    class Counted(machine):  # type: ignore[misc, valid-type]
        steps: ClassVar[int] = 0

        @invariant()
        def count(self) -> None:
            type(self).steps += 1

    Counted.__name__ = machine.__name__
    return Counted


def run(machine: type[RuleBasedStateMachine], steps: int, seed: int) -> None:
    """Run a machine for at least so many steps, each round of examples with a seed of its own."""
    counting, begun = counted(machine), time.monotonic()
    how = settings(
        max_examples=_EXAMPLES_AT_ONCE,
        stateful_step_count=_STEPS_OF_AN_EXAMPLE,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    while counting.steps < steps:  # type: ignore[attr-defined]
        core.global_force_seed = seed  # type: ignore[assignment]
        run_state_machine_as_test(counting, settings=how)
        seed += 1
    took_s = time.monotonic() - begun
    steps = counting.steps  # type: ignore[attr-defined]
    print(f"{machine.__name__}: {steps} steps in {took_s:.0f} s, last seed {seed - 1}", flush=True)


def main() -> None:
    """Run both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1_000_000, help="of each machine (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the first round (default: %(default)s)")
    options = parser.parse_args()
    for machine in (AnyOrder, AnyFleet):
        run(machine, options.steps, options.seed)


if __name__ == "__main__":
    main()
