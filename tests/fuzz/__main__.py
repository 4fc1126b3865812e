"""A campaign: every target in turn, by ever new inputs, for so many seconds. `make fuzz SECONDS=300`.

The seed is printed: the same seed and targets try the same inputs again, as far as the time carries. The exit status is 1 when
something was found; it is printed in its shortest form, as a line for tests/fuzz/found.py.
"""

import argparse
import secrets
import sys
import time
import traceback
from collections import Counter

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.fuzz.bytes_for import bytes_for
from tests.fuzz.targets import TARGETS, Target

_ROUND = {"http": 30, "client": 50, "datafile": 100}
_QUIET = settings(deadline=None, database=None, suppress_health_check=list(HealthCheck), print_blob=False)


def campaign(names: list[str], seconds: float, number: int) -> int:
    """Rounds over the targets until the time is over or one has broken; how many broke."""
    tried, broken, until = Counter[str](), dict[str, bytes](), time.monotonic() + seconds
    for turn in range(sys.maxsize):
        for name in names:
            if time.monotonic() > until:
                print(", ".join(f"{name} {count}" for name, count in tried.items()), "inputs tried", flush=True)
                return len(broken)
            if name not in broken and (shortest := _try(TARGETS[name], name, number + turn, tried)) is not None:
                broken[name] = shortest
                print(f"{name} broke; for tests/fuzz/found.py:\n    ({name!r}, {shortest!r}),", flush=True)
    raise AssertionError("unreachable")


def _try(target: Target, name: str, number: int, tried: Counter[str]) -> bytes | None:
    """One round of one target; the shortest input that broke it, if one did."""
    last = b""

    def check(data: bytes) -> None:
        nonlocal last
        last = data
        tried[name] += 1
        target.check(data)

    phases = (Phase.generate, Phase.shrink)
    run = settings(_QUIET, max_examples=_ROUND.get(name, 300), phases=phases)(
        seed(number)(given(bytes_for(target))(check))
    )
    try:
        run()
    except Exception:
        traceback.print_exc()
        return last  # Hypothesis ends with the shortest
    return None


def main() -> int:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**31))
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"some of: {', '.join(TARGETS)} (all)")
    options = parser.parse_args()
    if strange := set(options.targets) - set(TARGETS):
        parser.error(f"no such target: {', '.join(sorted(strange))}")
    print(f"seed {options.seed}, {options.seconds:g} s", flush=True)
    return int(campaign(options.targets or list(TARGETS), options.seconds, options.seed) > 0)


if __name__ == "__main__":
    sys.exit(main())
