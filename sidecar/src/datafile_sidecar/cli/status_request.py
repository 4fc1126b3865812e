"""One question to one admin port for `status`: its answer, or in words why there is none."""

import asyncio
import os
import resource
from dataclasses import dataclass, field, replace

import aiohttp

from datafile_sidecar.core import fleet_status
from datafile_sidecar.core.fleet_status import InvalidStatusError, StatusResponse, printable
from datafile_sidecar.network.http import read_body

REQUEST_TIMEOUT_S = 2.0

_MAX_CONCURRENT = 256
_SPARE_DESCRIPTORS = 64
_MAX_BYTES = 4 * 1024 * 1024
_HELD_S = 1


@dataclass(slots=True)
class Round:
    """Lookups and requests that all end at the deadline, so many at a time."""

    deadline: float
    limit: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_max_concurrent()))

    def late(self, error: TimeoutError) -> str:
        """Say which time was over."""
        return "no answer before the --timeout" if _now() >= self.deadline else reason_of(error)


async def request(
    session: aiohttp.ClientSession,
    this_round: Round,
    url: str,
    known: StatusResponse,
    *,
    changed_after: int | None = None,
) -> StatusResponse:
    """Ask once.

    Args:
        url: The address of the admin port.
        known: What is known of the sidecar; the answer or the problem is added to it.
        changed_after: Where the status is still of this version, the sidecar may answer up to a second later, once it is not.
    """
    query = {} if changed_after is None else {"after": changed_after, "wait": _HELD_S}
    is_asked = False
    try:
        async with asyncio.timeout_at(this_round.deadline), this_round.limit:
            is_asked = True
            async with session.get(f"{url.rstrip('/')}/status", params=query, allow_redirects=False) as response:
                return await _parse(response, known)
    except InvalidStatusError as error:
        problem = printable(str(error))
    except aiohttp.ClientPayloadError:
        problem = "answers, but the answer is cut off"
    except TimeoutError as error:
        problem = f"unreachable: {this_round.late(error)}" if is_asked else "not asked before the --timeout"
    except (aiohttp.ClientError, OSError, ValueError) as error:
        problem = f"unreachable: {reason_of(error)}"
    return replace(known, problem=problem)


async def _parse(response: aiohttp.ClientResponse, known: StatusResponse) -> StatusResponse:
    if response.status != 200:
        return replace(known, problem=f"answers {response.status}: is this a sidecar's admin port?")
    body = await read_body(response, _MAX_BYTES)
    if body is None:
        raise InvalidStatusError(f"answers with more than {_MAX_BYTES} bytes")
    return replace(known, status=fleet_status.parse(body), problem=None)


def reason_of(error: Exception) -> str:
    """Say in a few words why there is no answer."""
    if isinstance(error, TimeoutError):
        return f"no answer within {REQUEST_TIMEOUT_S:g} s"
    cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
    if isinstance(cause, ConnectionRefusedError):
        return "refuses connections: ended, or starting again?"
    # asyncio's own text repeats the address.
    reason = os.strerror(cause.errno) if isinstance(cause, ConnectionError) and cause.errno else None
    return printable(reason or getattr(cause, "strerror", None) or str(cause) or type(cause).__name__)


def _max_concurrent() -> int:
    """As many as the limit of open files leaves room for."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    room = _MAX_CONCURRENT if limit == resource.RLIM_INFINITY else limit - _SPARE_DESCRIPTORS
    return max(1, min(_MAX_CONCURRENT, room))


def _now() -> float:
    return asyncio.get_running_loop().time()
