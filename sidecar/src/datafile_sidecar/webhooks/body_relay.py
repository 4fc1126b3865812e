"""How far the relay of one webhook is, and which peers did not get it."""

import asyncio
from dataclasses import dataclass, field
from typing import Final

DEDUPLICATE_S: Final = 5.0
"""How long the same body is not relayed again, even to peers that did not get it."""
_MAX_MISSED = 64


@dataclass(eq=False, slots=True)
class BodyRelay:
    """The relay of one body.

    `outcomes` are those of the relay that is running. `missed` are the addresses, or names, that did not get the body; None
    where none was asked yet.
    """

    outcomes: dict[tuple[str, int], str] = field(default_factory=dict)
    missed: frozenset[tuple[str, int]] | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    _begun_at: float = float("-inf")
    _has_delivered: bool = False

    def begin(self, now: float) -> bool:
        """Begin to relay the body if it was not relayed before, or not to all; return whether that is so.

        Args:
            now: Monotonic seconds.
        """
        is_running = self._begun_at > float("-inf") and not self.ended.is_set()
        if is_running or self.missed == frozenset() or now - self._begun_at < DEDUPLICATE_S:
            return False
        self._begun_at = now
        self.ended.clear()
        return True

    @property
    def is_delivered(self) -> bool | None:
        """Whether a peer has got the body; None where there is no peer."""
        if self._has_delivered or "delivered" in self.outcomes.values():
            return True
        return False if self.missed or not self.ended.is_set() else None

    def note_outcomes(self) -> None:
        """Keep of the outcomes only what another relay has to know."""
        missed = [address for address, outcome in self.outcomes.items() if outcome != "delivered"]
        if self.outcomes:
            self._has_delivered |= len(missed) < len(self.outcomes)
            self.missed = frozenset(missed[:_MAX_MISSED])
        self.outcomes = {}
