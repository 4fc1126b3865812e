"""Finds out whether the sidecars that answered are all that there are.

What can't be known is a response with a problem that says why, so that it is never taken for success.
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence

from datafile_sidecar.core.fleet_status import StatusResponse, identity

_MAX_ADDRESSES = {4: 4000, 6: 2280}
"""Addresses of a family that surely fit into one DNS answer. It holds 64 KiB, and the system does not report a cut."""

_FLEET = "fleet"


def doubts(
    responses: Sequence[StatusResponse], resolved: Mapping[str, Sequence[str]], *, expected: int | None
) -> Iterator[StatusResponse]:
    """One problem for each reason why a sidecar may be missing.

    Args:
        responses: of all endpoints, before the answers of one sidecar are merged.
        resolved: the addresses of each name.
        expected: the number of sidecars that there must be. When that many have answered, there is no other doubt.
    """
    if expected is not None:
        yield from _miscounted(responses, expected)
        return
    for name, addresses in resolved.items():
        yield from _cut_off(name, addresses)
    yield from _indistinct(responses)


def _miscounted(responses: Iterable[StatusResponse], expected: int) -> Iterator[StatusResponse]:
    statuses = [response.status for response in responses if response.status]
    identities = {identity(status) for status in statuses}
    if None in identities:
        yield StatusResponse(_FLEET, problem="can't be counted: a sidecar does not give its `instance`")
    elif len(identities) != expected:
        yield StatusResponse(_FLEET, problem=f"sidecars that answered: {len(identities)}, expected: {expected}")


def _cut_off(name: str, addresses: Iterable[str]) -> Iterator[StatusResponse]:
    for family, count in Counter(map(_family, addresses)).items():
        if count > _MAX_ADDRESSES[family]:
            reason = f"gave {count} addresses, about as many as a DNS answer holds: more may be missing; use --expect"
            yield StatusResponse(name, problem=reason)


def _indistinct(responses: Iterable[StatusResponse]) -> Iterator[StatusResponse]:
    """Find sidecars that answered in the place of several: at several peer ports, or at several addresses of a family."""
    by_sidecar: dict[Hashable, list[StatusResponse]] = {}
    for number, response in enumerate(responses):
        if response.status:
            by_sidecar.setdefault(identity(response.status) or number, []).append(response)
    for answers in by_sidecar.values():
        first, ports = answers[0], sorted({port for answer in answers for port in answer.peer_ports})
        if len(ports) > 1:
            reason = f"one sidecar answers for the webhook ports {', '.join(map(str, ports))}: ask each with --url"
            yield StatusResponse(first.endpoint, problem=reason)
            continue
        peers = [answer.endpoint for answer in answers if answer.is_peer]
        for family in (4, 6):
            same = [endpoint for endpoint in peers if _family(endpoint) == family]
            if len(same) > 1:
                reason = f"the same sidecar answers at {', '.join(same[1:3])}: another may be missing; use --expect"
                yield StatusResponse(same[0], problem=reason)


def _family(host: str) -> int:
    """Return 6 for an IPv6 address, with or without a port, else 4."""
    host = host.rpartition("://")[2]
    return 6 if host.startswith("[") or host.count(":") > 1 else 4
