"""The other sidecars: do the names resolve, and does a webhook port answer at each address?"""

import asyncio
import os
from collections.abc import AsyncIterator, Sequence

import aiohttp
from yarl import URL

from datafile_sidecar.core.webhook import PATH
from datafile_sidecar.network.resolver import DaemonResolver, addresses

from .finding import Finding, failed, ok

_PART = "peers"
_ANSWER_S = 2.0
_MOST_NAMED = 5
_MOST_AT_ONCE = 32

Address = tuple[str, int]


async def look_at_peers(names: Sequence[Address], *, has_bus: bool) -> AsyncIterator[Finding]:
    """Resolve each name and knock at each address, without leaving a trace in its log."""
    if not names:
        if not has_bus:
            yield ok(
                _PART, "neither these nor a bus: fine for one pod; with several, set DATAFILE_PEERS or DATAFILE_BUS_URL"
            )
        return
    resolver, limit = DaemonResolver(), asyncio.Semaphore(_MOST_AT_ONCE)
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, force_close=True, resolver=resolver),
        timeout=aiohttp.ClientTimeout(total=_ANSWER_S),
        trust_env=False,
    ) as session:
        for host, port in names:
            try:
                found = await addresses(resolver, host, _ANSWER_S)
            except OSError as error:
                yield _unresolved(host, error)
                continue
            problems = await asyncio.gather(*(_knock(session, limit, (address, port)) for address in found))
            yield _told(host, len(found), [problem for problem in problems if problem])


def _unresolved(host: str, error: OSError) -> Finding:
    cause = f"no answer within {_ANSWER_S:g} s" if isinstance(error, TimeoutError) else error.strerror
    return failed(
        _PART,
        f"the name {host} does not resolve: {cause}",
        "name a headless Service (clusterIP: None, publishNotReadyAddresses: true) as this pod sees it, SERVICE or "
        "SERVICE.NAMESPACE, whose selector meets the pods",
    )


def _told(host: str, count: int, problems: list[str]) -> Finding:
    if not problems:
        return ok(_PART, f"{host}: {count} of {count} answer")
    more = len(problems) - _MOST_NAMED
    named = ", ".join(problems[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
    return failed(
        _PART,
        f"{host}: a sidecar answers at {count - len(problems)} of {count}; not at {named}",
        "see that a sidecar runs there, that the port in DATAFILE_PEERS is that of its DATAFILE_WEBHOOK_LISTEN, and that network "
        "policies let pods reach each other at it",
    )


async def _knock(session: aiohttp.ClientSession, limit: asyncio.Semaphore, address: Address) -> str | None:
    """Why there is no sidecar's webhook port, None where there is one: it knows the path, and takes nothing but POST."""
    host, port = address
    url = URL.build(scheme="http", host=host, port=port, path=PATH)
    try:
        async with limit, session.get(url, allow_redirects=False) as answer:
            is_ours = answer.status == 405 and answer.headers.get("Allow") == "POST"
            return None if is_ours else f"{url.authority} (answers {answer.status}: no webhook port of a sidecar)"
    except TimeoutError:
        return f"{url.authority} (no answer within {_ANSWER_S:g} s)"
    except (aiohttp.ClientError, OSError, ValueError) as error:
        number = getattr(error, "errno", None)
        return f"{url.authority} ({os.strerror(number) if number else 'what answers is no HTTP'})"
