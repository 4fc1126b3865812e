"""Relays webhooks to the other pods: the original signed body, posted once to every address of the peers' names.

Peers need no trust, since each receiver verifies the signature itself. A webhook's answer never waits for the relay, and no
peer waits for another: those that failed last time have slots of their own, and so have those that did not. The newest revision
goes first. A relayed webhook is marked and not relayed again. Polling makes up for a lost one.
"""

import asyncio
import functools
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any, Final, NoReturn

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from datafile_sidecar.core.times import rfc3339
from datafile_sidecar.core.webhook import INSTANCE_HEADER, PATH, DatafileUpdated
from datafile_sidecar.network.http import client_session
from datafile_sidecar.network.resolver import DaemonResolver
from datafile_sidecar.observe.telemetry import Telemetry
from datafile_sidecar.webhooks.peer_addresses import Address, PeerAddresses, host_port, is_own
from datafile_sidecar.webhooks.post_slots import PostSlots
from datafile_sidecar.webhooks.relay import Relay, RelayMemory

MAX_POSTS: Final = 256

_POST_S = 2.0
_RELAY_S = 6.0
_MAX_RELAYS = 64
_MAX_FAILING_SHOWN = 10
_MAX_INSTANCE = 64


class Peers:
    """The other sidecars, by the names of headless Services or by addresses, and the results of the last relay."""

    def __init__(
        self,
        names: Iterable[Address],
        listens_on: Address,
        telemetry: Telemetry,
        resolver: AbstractResolver | None = None,
        max_posts: int = MAX_POSTS,
    ) -> None:
        """Start nothing yet: `run` does.

        Args:
            names: Host and port of each peer or headless Service; with none of them, nothing is relayed.
            listens_on: Where our own webhook port is bound, so that we don't post to ourselves.
            telemetry: Logs and counts.
            resolver: Resolves the names.
            max_posts: At a time, to peers that failed last time and, once more, to the others.
        """
        self._names = tuple(names)
        self._listens_on = listens_on
        self._telemetry = telemetry
        self._addresses = PeerAddresses(resolver or DaemonResolver(), telemetry)
        self._memory = RelayMemory()
        self._queue: asyncio.Queue[Relay] = asyncio.Queue()
        self._session: aiohttp.ClientSession
        self._relays: dict[Relay, asyncio.Task[None]] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self._slots, self._slots_for_failed = PostSlots(max_posts), PostSlots(max_posts)
        # Whether each address answered last time; the one that was asked last is the last.
        self._answered: dict[Address, bool] = {}
        self._instances: dict[Address, str] = {}
        self._last: tuple[float, dict[Address, str]] | None = None

    def relay(self, body: bytes, signature: bytes, event: DatafileUpdated) -> None:
        """Queue a verified webhook for the peers. One that was relayed before goes only to those that did not get it.

        Args:
            body: The raw body.
            signature: The value of its signature header.
            event: What the body says.
        """
        now = asyncio.get_running_loop().time()
        if self._names and (relay := self._memory.begin(body, signature, event, now)):
            self._idle.clear()
            self._queue.put_nowait(relay)

    async def run(self) -> NoReturn:
        """Relay what is queued, for ever. When too many relays are running, the one with the oldest revision gives way."""
        async with client_session(_POST_S) as self._session, asyncio.TaskGroup() as tasks:
            tasks.create_task(self._addresses.run(host for host, _ in self._names))
            while True:
                relay = await self._queue.get()
                if len(self._relays) >= _MAX_RELAYS and self._give_way(relay) is relay:
                    continue
                task = tasks.create_task(self._relay(relay))
                self._relays[relay] = task
                task.add_done_callback(functools.partial(self._end, relay))

    async def settle(self) -> None:
        """Wait until every relay has ended."""
        await self._idle.wait()

    async def settle_body(self, body: bytes) -> None:
        """Wait until the relay of one body has ended."""
        if (relay := self._memory.find(body)) is not None:
            await relay.ended.wait()

    def is_delivered(self, body: bytes) -> bool | None:
        """Tell whether any peer has got a body from here so far; None where there was no peer to post it to."""
        relay = self._memory.find(body)
        if relay is None or (relay.ended.is_set() and not relay.is_delivered and relay.missed == frozenset()):
            return None
        return relay.is_delivered

    def status(self) -> dict[str, Any]:
        """Return the peers' part of `/status`: the results of the last relay, and the addresses that it did not reach."""
        if not self._names:
            return {"state": "off"}
        at, outcomes = self._last or (None, {})
        failing = [
            f"{host_port(address)}: {outcome}" for address, outcome in outcomes.items() if outcome != "delivered"
        ]
        return {
            "state": "on",
            "names": [host_port(name) for name in self._names],
            "relayed": rfc3339(at),
            "outcomes": dict(Counter(outcomes.values())),
            "failing": failing[:_MAX_FAILING_SHOWN],
        }

    # One relay

    async def _relay(self, relay: Relay) -> None:
        try:
            async with asyncio.timeout(_RELAY_S), asyncio.TaskGroup() as tasks:
                for name in self._names:
                    tasks.create_task(self._relay_to_name(name, relay))
        except TimeoutError:
            pass  # the outcome of addresses that were not reached in time is "dropped"
        if relay.only is None:
            self._forget_all_but(relay.outcomes.keys())

    def _give_way(self, new: Relay) -> Relay:
        """End one relay of those that are running and a new one: the last in order of priority. Return it."""
        last = max((*self._relays, new), key=self._memory.priority)
        last.outcomes = last.outcomes or dict.fromkeys(self._names, "dropped")
        if last is new:
            self._end(new)
        else:
            self._relays.pop(last).cancel()
        return last

    def _end(self, relay: Relay, _: object = None) -> None:
        """Note the results of a relay, and that it is over."""
        self._relays.pop(relay, None)
        outcomes = relay.end(self._instances)
        self._last = time.time(), outcomes
        self._telemetry.webhook_relayed(Counter(outcomes.values()))
        if not self._relays and self._queue.empty():
            self._idle.set()

    async def _relay_to_name(self, name: Address, relay: Relay) -> None:
        async with asyncio.TaskGroup() as tasks:

            def found(hosts: list[str]) -> None:
                tasks.create_task(self._relay_to_all(relay, relay.add(name, hosts)))

            try:
                await self._addresses.look_up(name[0], found)
            except OSError:
                relay.note(name, "unresolved")

    async def _relay_to_all(self, relay: Relay, addresses: list[Address]) -> None:
        """Post to those that answered last time, then to those that are new; beside them, to those that failed."""
        wanted = frozenset(addresses)
        failed = [address for address, has_answered in self._answered.items() if not has_answered and address in wanted]
        others = sorted(wanted.difference(failed), key=lambda address: address not in self._answered)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._relay_to_each(relay, others, self._slots))
            tasks.create_task(self._relay_to_each(relay, failed, self._slots_for_failed))

    async def _relay_to_each(self, relay: Relay, addresses: list[Address], slots: PostSlots) -> None:
        failed_meanwhile = []
        async with asyncio.TaskGroup() as tasks:
            for address in addresses:
                await slots.acquire(self._memory.priority(relay))
                if slots is self._slots and not self._answered.get(address, True):
                    slots.release()
                    failed_meanwhile.append(address)
                    continue
                task = tasks.create_task(self._relay_to(address, relay))
                task.add_done_callback(lambda _: slots.release())
        if failed_meanwhile:
            await self._relay_to_each(relay, failed_meanwhile, self._slots_for_failed)

    async def _relay_to(self, address: Address, relay: Relay) -> None:
        if is_own(address, self._listens_on):
            del relay.outcomes[address]
            return
        outcome, instance = await _post(self._session, relay, address)
        relay.note(address, outcome)
        self._answered.pop(address, None)
        self._answered[address] = outcome in {"delivered", "rejected"}
        if instance:
            self._instances[address] = instance

    def _forget_all_but(self, addresses: Iterable[Address]) -> None:
        kept = frozenset(addresses)
        self._answered = {address: known for address, known in self._answered.items() if address in kept}
        self._instances = {address: known for address, known in self._instances.items() if address in kept}


async def _post(session: aiohttp.ClientSession, relay: Relay, address: Address) -> tuple[str, str | None]:
    """Post a webhook to one address and return the outcome, and which sidecar answered, where it says so."""
    try:
        url = URL.build(scheme="http", host=address[0], port=address[1], path=PATH)
        async with session.post(url, data=relay.body, headers=relay.headers, allow_redirects=False) as response:
            instance = response.headers.get(INSTANCE_HEADER, "")[:_MAX_INSTANCE] or None
            return ("delivered" if 200 <= response.status < 300 else "rejected"), instance
    except TimeoutError:
        return "timeout", None
    except (aiohttp.ClientError, OSError, ValueError):
        return "unreachable", None
