"""When something older is believed: upstream must insist on it, by answers, not by the time that passes while it gives none.

Times are seconds of one monotonic clock, handed in.
"""

from dataclasses import dataclass

_POLLS_APART = 2
_LEAST_APART_S = 60.0 * _POLLS_APART


@dataclass(frozen=True, slots=True)
class Patience:
    """For how long upstream must insist, and how much of the time between two of its answers counts for that, in seconds."""

    insist_s: float
    apart_s: float

    @classmethod
    def of(cls, insist_s: float, poll_interval_s: float) -> "Patience":
        """Between two answers two poll intervals count at most, and two minutes where polls are frequent or off."""
        return cls(insist_s, max(_POLLS_APART * poll_interval_s, _LEAST_APART_S))


@dataclass(frozen=True, slots=True)
class Insistence:
    """That upstream serves something older: when it last said so, and for how long its answers until then insisted."""

    at: float
    lasted_s: float = 0.0

    def again(self, now: float, patience: Patience) -> "Insistence":
        """It says so again. An outage between two answers insists on nothing, but does not take back what was said before."""
        return Insistence(now, self.lasted_s + min(now - self.at, patience.apart_s))

    def is_enough(self, now: float, patience: Patience) -> bool:
        """Whether an answer that comes now is to be believed."""
        return self.again(now, patience).lasted_s >= patience.insist_s
