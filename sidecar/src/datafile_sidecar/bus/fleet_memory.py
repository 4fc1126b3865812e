"""What one pod remembers of the others, so that a broker that comes back empty does not make a silent pod unknown."""

from collections import Counter
from typing import Final

from datafile_sidecar.bus.fleet_store import SINCE_FIELD, Registered
from datafile_sidecar.core.fleet_record import MAX_NAME_BYTES

_ROUNDS: Final = 6


class FleetMemory:
    """For each SDK key a few names that were read lately. Each pod is known to some others, since all choose at random."""

    def __init__(self, own_name: bytes) -> None:
        """Remember nothing yet."""
        self._ignored = frozenset({own_name, SINCE_FIELD.encode()})
        self._since: dict[str, bytes] = {}
        self._names: dict[str, dict[bytes, int]] = {}
        self._rounds = Counter[str]()

    def learn(self, sdk_key: str, answer: Registered) -> frozenset[bytes]:
        """Note which pods there are. Return those that were known before the broker lost its memory, if it has."""
        known, before = self._names.setdefault(sdk_key, {}), self._since.get(sdk_key)
        lost = frozenset() if before in {None, answer.since} else frozenset(known)
        self._since[sdk_key] = answer.since
        self._rounds[sdk_key] += 1
        now = self._rounds[sdk_key]
        known.update((name, now) for name in answer.sample if len(name) <= MAX_NAME_BYTES)
        for name in [name for name, read in known.items() if name in self._ignored or read <= now - _ROUNDS]:
            if name not in lost:
                del known[name]
        return lost
