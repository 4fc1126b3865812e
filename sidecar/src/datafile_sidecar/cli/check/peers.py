"""Check the peers: that the names resolve, and that a sidecar's webhook port answers at each address."""

import asyncio
import os
from collections.abc import AsyncIterator, Sequence

import aiohttp
from yarl import URL

from datafile_sidecar.core.webhook import PATH
from datafile_sidecar.network.resolver import DaemonResolver, addresses

from .finding import Finding, failed, ok

_PART = "peers"
_TIMEOUT_S = 2.0
_MAX_LISTED = 5
_MAX_CONCURRENT_REQUESTS = 32

HostPort = tuple[str, int]


async def check_peers(names: Sequence[HostPort], *, has_bus: bool) -> AsyncIterator[Finding]:
    """Resolve each name and probe each address, with a request that the peer does not log."""
    if not names:
        if not has_bus:
            yield ok(
                _PART, "no peers and no bus: fine for a single pod; for several, set DATAFILE_PEERS or DATAFILE_BUS_URL"
            )
        return
    resolver, limit = DaemonResolver(), asyncio.Semaphore(_MAX_CONCURRENT_REQUESTS)
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, force_close=True, resolver=resolver),
        timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S),
        trust_env=False,
    ) as session:
        for host, port in names:
            try:
                hosts = await addresses(resolver, host, _TIMEOUT_S)
            except OSError as error:
                yield _unresolved(host, error)
                continue
            problems = await asyncio.gather(*(_probe(session, limit, (address, port)) for address in hosts))
            yield _resolved(host, len(hosts), [problem for problem in problems if problem])


def _unresolved(host: str, error: OSError) -> Finding:
    cause = f"no answer within {_TIMEOUT_S:g} s" if isinstance(error, TimeoutError) else error.strerror
    return failed(
        _PART,
        f"the name {host} does not resolve: {cause}",
        "use the name of a headless Service (clusterIP: None, publishNotReadyAddresses: true) whose selector matches the "
        "pods: SERVICE or SERVICE.NAMESPACE",
    )


def _resolved(host: str, count: int, problems: list[str]) -> Finding:
    if not problems:
        return ok(_PART, f"{host}: {count} of {count} addresses answer")
    unlisted = len(problems) - _MAX_LISTED
    listed = ", ".join(problems[:_MAX_LISTED]) + (f" and {unlisted} more" if unlisted > 0 else "")
    return failed(
        _PART,
        f"{host}: {count - len(problems)} of {count} addresses answer; not {listed}",
        "check that a sidecar runs there, that the port in DATAFILE_PEERS is the port of its DATAFILE_WEBHOOK_LISTEN, and that "
        "network policies let pods connect to it",
    )


async def _probe(session: aiohttp.ClientSession, limit: asyncio.Semaphore, address: HostPort) -> str | None:
    """The problem with an address, None when a sidecar's webhook port answers: 405 and Allow: POST."""
    host, port = address
    url = URL.build(scheme="http", host=host, port=port, path=PATH)
    try:
        async with limit, session.get(url, allow_redirects=False) as response:
            is_ours = response.status == 405 and response.headers.get("Allow") == "POST"
            return None if is_ours else f"{url.authority} (answers {response.status}: not a sidecar's webhook port)"
    except TimeoutError:
        return f"{url.authority} (no answer within {_TIMEOUT_S:g} s)"
    except (aiohttp.ClientError, OSError, ValueError) as error:
        number = getattr(error, "errno", None)
        return f"{url.authority} ({os.strerror(number) if number else 'the answer is not HTTP'})"
