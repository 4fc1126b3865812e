"""Finds the one server that the bus uses: the master that Sentinels name, or the node of a cluster that owns the bus's slot.

It is asked anew for each connection, so that a failover is followed by connecting again.
"""

import random
from collections.abc import Awaitable, Callable
from typing import Any, Final

from aiohttp.abc import AbstractResolver
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, MovedError, NoPermissionError, RedisError

from datafile_sidecar.bus.errors import BrokerError
from datafile_sidecar.core.broker_url import BrokerKind, BrokerUrl
from datafile_sidecar.network.resolver import addresses

_ASK_WITHIN_S: Final = 2.0
_MAX_REDIRECTS: Final = 5
_Server = tuple[str, int]


async def find_server(url: BrokerUrl, resolver: AbstractResolver, slot_key: str) -> _Server:
    """Return host and port of the server to use.

    Args:
        url: The broker's URL.
        resolver: Resolves the hosts before the package does, which would do it in the event loop's threads.
        slot_key: A key of the bus. In a cluster, the node that owns its slot is the server.

    Raises:
        BrokerError: None of the hosts knows one, and why.
    """
    if url.kind is BrokerKind.SERVER:
        return url.hosts[0]
    ask = _master if url.kind is BrokerKind.SENTINELS else _owner
    problems = list[str]()
    # Shuffled, because the first one would get the connections of the whole fleet.
    for host, port in random.sample(url.hosts, len(url.hosts)):
        try:
            await addresses(resolver, host, _ASK_WITHIN_S)
            return await ask(url, (host, port), slot_key)
        except (RedisError, OSError, BrokerError) as error:
            problems.append(f"{host}:{port}: {str(error) or type(error).__name__}")
    raise BrokerError("; ".join(problems))


async def _master(url: BrokerUrl, sentinel: _Server, _: str) -> _Server:
    async def ask(client: Redis) -> Any:
        return await client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", url.master)  # type: ignore[no-untyped-call]

    try:
        answer = await _ask(url.server(*sentinel, with_password=False), ask)
    except (AuthenticationError, NoPermissionError):
        answer = await _ask(url.server(*sentinel), ask)
    if not (isinstance(answer, list) and len(answer) == 2):
        raise BrokerError(f"this Sentinel knows no master by the name {url.master}")
    return answer[0].decode(), int(answer[1])


async def _owner(url: BrokerUrl, node: _Server, slot_key: str) -> _Server:
    for _ in range(_MAX_REDIRECTS):
        try:
            await _ask(url.server(*node), lambda client: client.getrange(slot_key, 0, 0))
        except MovedError as moved:
            node = (moved.host or node[0], moved.port)
        else:
            return node
    raise BrokerError("the nodes of the cluster do not agree which of them owns the bus's slot")


async def _ask(server: str, ask: Callable[[Redis], Awaitable[Any]]) -> Any:
    client = Redis.from_url(
        server,
        protocol=2,
        retry=Retry(NoBackoff(), 0),
        socket_timeout=_ASK_WITHIN_S,
        socket_connect_timeout=_ASK_WITHIN_S,
    )
    try:
        return await ask(client)
    finally:
        await client.aclose()  # at once: thousands of pods may ask the same server
