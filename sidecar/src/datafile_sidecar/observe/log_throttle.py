"""What may happen all the time is told at once, and then now and again, with how often it happened in between.

Times are seconds of one monotonic clock, handed in.
"""


class Seldom:
    """When each thing was told last, and how often it has happened since."""

    def __init__(self) -> None:
        self._told: dict[str, tuple[float, int]] = {}

    def untold(self, what: str, now: float, every_s: float) -> int | None:
        """It happened: how often it has, untold, before this; None where it is too early to tell it again."""
        at, more = self._told.get(what, (float("-inf"), 0))
        is_early = now - at < every_s
        self._told[what] = (at, more + 1) if is_early else (now, 0)
        return None if is_early else more

    def forget(self, what: str) -> None:
        """It is over: the next time is a first one."""
        self._told.pop(what, None)
