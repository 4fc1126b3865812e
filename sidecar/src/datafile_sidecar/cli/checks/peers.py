"""Check the peers: that the names resolve, and that a sidecar's webhook port answers at each address."""

import asyncio
import os
from collections.abc import Sequence

import aiohttp
from yarl import URL

from datafile_sidecar.cli.checks.finding import Finding, Report, failed, ok, warning
from datafile_sidecar.core.webhook import PATH
from datafile_sidecar.network.http import client_session
from datafile_sidecar.network.resolver import DaemonResolver, addresses
from datafile_sidecar.webhooks.peer_addresses import MANY

_PART = "peers"
_TIMEOUT_S = 2.0
_MAX_LISTED = 5
_MAX_CONCURRENT_REQUESTS = 32


async def check_peers(names: Sequence[tuple[str, int]], report: Report, *, has_bus: bool) -> None:
    """Resolve each name and probe each address, with a request that the peer does not log."""
    if not names and not has_bus:
        advice = "fine for a single pod; for several, set DATAFILE_PEERS or DATAFILE_BUS_URL"
        report(ok(_PART, f"no peers and no bus: {advice}"))
    resolver, limit = DaemonResolver(), asyncio.Semaphore(_MAX_CONCURRENT_REQUESTS)
    async with client_session(_TIMEOUT_S) as session:
        for host, port in names:
            try:
                hosts = await addresses(resolver, host, _TIMEOUT_S)
            except OSError as error:
                report(_unresolved(host, error))
                continue
            if len(hosts) >= MANY:
                report(_many(host, len(hosts)))
            urls = [URL.build(scheme="http", host=address, port=port, path=PATH) for address in hosts]
            problems = await asyncio.gather(*(_probe(session, limit, url) for url in urls))
            report(_resolved(host, len(hosts), [problem for problem in problems if problem]))


def _unresolved(host: str, error: OSError) -> Finding:
    cause = f"no answer within {_TIMEOUT_S:g} s" if isinstance(error, TimeoutError) else error.strerror
    service = "a headless Service (clusterIP: None, publishNotReadyAddresses: true) whose selector matches the pods"
    fix = f"use the name of {service}: SERVICE or SERVICE.NAMESPACE"
    return failed(_PART, f"the name {host} does not resolve: {cause}", fix)


def _many(host: str, count: int) -> Finding:
    message = f"{host}: {count} addresses; relaying each webhook to so many takes seconds, and 4,094 are the most that resolve"
    return warning(_PART, message, "use the bus to reach so many pods: set DATAFILE_BUS_URL instead of DATAFILE_PEERS")


def _resolved(host: str, count: int, problems: list[str]) -> Finding:
    answering = f"{host}: {count - len(problems)} of {count} addresses answer"
    if not problems:
        return ok(_PART, answering)
    unlisted = len(problems) - _MAX_LISTED
    listed = ", ".join(problems[:_MAX_LISTED]) + (f" and {unlisted} more" if unlisted > 0 else "")
    port = "the port in DATAFILE_PEERS is the port of its DATAFILE_WEBHOOK_LISTEN"
    fix = f"check that a sidecar runs there, that {port}, and that network policies let pods connect to it"
    return failed(_PART, f"{answering}; not {listed}", fix)


async def _probe(session: aiohttp.ClientSession, limit: asyncio.Semaphore, url: URL) -> str | None:
    """The problem with an address, None when a sidecar's webhook port answers: 405 and Allow: POST."""
    try:
        async with limit, session.get(url, allow_redirects=False) as response:
            is_ours = response.status == 405 and response.headers.get("Allow") == "POST"
            return None if is_ours else f"{url.authority} (answers {response.status}: not a sidecar's webhook port)"
    except TimeoutError:
        return f"{url.authority} (no answer within {_TIMEOUT_S:g} s)"
    except (aiohttp.ClientError, OSError, ValueError) as error:
        number = getattr(error, "errno", None)
        return f"{url.authority} ({os.strerror(number) if number else 'the answer is not HTTP'})"
