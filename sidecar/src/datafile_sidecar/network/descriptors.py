"""Shares the file descriptors of the process among all that opens connections, so that files can always be opened."""

import resource
from dataclasses import dataclass

_RESERVED = 64
"""For files, listening sockets, name lookups, upstream, the broker, and connections that are accepted to be dropped."""
_CONNECTIONS, _WORKERS, _POSTS = 256, 256, 256
_ALL = 2 * _CONNECTIONS + _WORKERS + 2 * _POSTS


@dataclass(frozen=True, slots=True)
class DescriptorLimits:
    """How many descriptors each use may take.

    Args:
        connections: Of each of the two ports.
        workers: On `sidecar.sock`.
        posts: Relayed webhooks on their way, to peers that answered last time and, once more, to the others.
    """

    connections: int
    workers: int
    posts: int


def descriptor_limits(descriptors: int | None = None) -> DescriptorLimits:
    """Return the limits for so many descriptors; for less than 1344 all are reduced in proportion.

    Args:
        descriptors: By default what the process may have (`RLIMIT_NOFILE`).
    """
    if descriptors is None:
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    available = _ALL if descriptors == resource.RLIM_INFINITY else min(_ALL, max(0, descriptors - _RESERVED))

    def share(wanted: int) -> int:
        return max(2, wanted * available // _ALL)

    return DescriptorLimits(connections=share(_CONNECTIONS), workers=share(_WORKERS), posts=share(_POSTS))
