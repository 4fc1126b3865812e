"""One webhook on its way to the peers, and the memory of those that were relayed before."""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from datafile_sidecar.core.webhook import RELAYED_HEADER, SIGNATURE_HEADER, DatafileUpdated
from datafile_sidecar.webhooks.body_memory import BodyMemory
from datafile_sidecar.webhooks.peer_addresses import Address
from datafile_sidecar.webhooks.post_slots import Priority

DEDUPLICATE_S: Final = 5.0
"""How long the same body is not relayed again to all where many did not get it."""

_RETRY_AFTER_S = 1.0
_MAX_STREAMS = 1024
_MAX_MISSED = 64


@dataclass(eq=False, slots=True)
class Relay:
    """One webhook on its way.

    `only` are the addresses and names that an earlier relay of the same body did not reach; None means all. `outcomes` has each
    address that was found so far, and each name that was not. `missed` is None where too many peers did not get it to remember
    which. At the end, what may be large is let go.
    """

    body: bytes
    signature: bytes
    event: DatafileUpdated
    begun_at: float
    only: frozenset[Address] | None = None
    is_delivered: bool = False
    outcomes: dict[Address, str] = field(default_factory=dict, init=False)
    missed: frozenset[Address] | None = field(default=frozenset(), init=False)
    ended: asyncio.Event = field(default_factory=asyncio.Event, init=False)

    @property
    def headers(self) -> dict[str, str]:
        """What is sent with the body: the signature, and that it is a relayed one."""
        signature = self.signature.strip().decode("ascii")
        return {SIGNATURE_HEADER: signature, RELAYED_HEADER: "1", "Content-Type": "application/json"}

    @property
    def stream(self) -> tuple[str | None, str]:
        """Names the series of revisions that the event belongs to: within it, they can be compared."""
        return self.event.project_id, (self.event.environment or "").casefold()

    def add(self, name: Address, hosts: Iterable[str]) -> list[Address]:
        """Note the addresses that a name resolves to; return those that are new and still need the webhook."""
        found = [(host, name[1]) for host in hosts]
        if self.only is not None and name not in self.only:
            found = [address for address in found if address in self.only]
        new = [address for address in found if address not in self.outcomes]
        self.outcomes |= dict.fromkeys(new, "dropped")
        return new

    def note(self, address: Address, outcome: str) -> None:
        """Note what became of the post to one address."""
        self.outcomes[address] = outcome
        self.is_delivered |= outcome == "delivered"

    def end(self, instances: Mapping[Address, str]) -> dict[Address, str]:
        """Return the outcomes, and let go of all but what another relay of the same body has to know.

        Args:
            instances: The sidecar behind each address, where that is known: one with several addresses is counted once.
        """
        outcomes = _merged(self.outcomes, instances)
        missed = frozenset(address for address, outcome in outcomes.items() if outcome != "delivered")
        self.missed = missed if len(missed) <= _MAX_MISSED else None
        self.body, self.outcomes, self.event = b"", {}, replace(self.event, urls=())
        self.ended.set()
        return outcomes


class RelayMemory:
    """The relays of the last 10 minutes, by their bodies, and the newest revision of each stream."""

    def __init__(self) -> None:
        """Remember nothing yet."""
        self._relays = BodyMemory[Relay]()
        self._newest: dict[tuple[str | None, str], int] = {}

    def find(self, body: bytes) -> Relay | None:
        """Return the latest relay of a body, None where there was none lately."""
        return self._relays.get(body)

    def begin(self, body: bytes, signature: bytes, event: DatafileUpdated, now: float) -> Relay | None:
        """Return a relay to begin: to all peers, or to those that an earlier relay of the same body did not reach.

        Args:
            body: The raw body of the webhook.
            signature: The value of its signature header.
            event: What the body says.
            now: Seconds of the event loop's clock.

        Returns:
            None where all have it, or an earlier relay is running or ended just now.
        """
        relay = Relay(body, signature, event, now)
        self._note_revision(relay)
        if (last := self.find(body)) is not None:
            pause_s = DEDUPLICATE_S if last.missed is None else min(DEDUPLICATE_S, _RETRY_AFTER_S)
            if not last.ended.is_set() or last.missed == frozenset() or now - last.begun_at < pause_s:
                return None
            relay.only, relay.is_delivered = last.missed, last.is_delivered
        self._relays.put(body, relay)
        return relay

    def is_superseded(self, relay: Relay) -> bool:
        """Tell whether a newer revision of the same stream has come."""
        revision = relay.event.revision
        return revision is not None and revision < self._newest.get(relay.stream, 0)

    def priority(self, relay: Relay) -> Priority:
        """Return how soon a relay's posts are sent, and how late it gives way: the newest revisions go first."""
        return self.is_superseded(relay), -(relay.event.revision or 0)

    def _note_revision(self, relay: Relay) -> None:
        if relay.event.is_withdrawal:  # what was announced by mistake must not hold up what is served
            self._newest.pop(relay.stream, None)
            return
        revision = max(relay.event.revision or 0, self._newest.pop(relay.stream, 0))
        self._newest[relay.stream] = revision
        if len(self._newest) > _MAX_STREAMS:
            del self._newest[next(iter(self._newest))]


def _merged(outcomes: Mapping[Address, str], instances: Mapping[Address, str]) -> dict[Address, str]:
    """Return the outcomes without those of a second address of a sidecar that got the webhook."""
    merged, reached = {}, set[str]()
    for address, outcome in sorted(outcomes.items(), key=lambda one: one[1] != "delivered"):
        instance = instances.get(address)
        if instance in reached:
            continue
        merged[address] = outcome
        if instance is not None and outcome == "delivered":
            reached.add(instance)
    return merged
