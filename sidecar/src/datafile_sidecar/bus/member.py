"""What the bus needs to know of one SDK key, and what it brings to it."""

from typing import Protocol

from datafile_sidecar.core.bus_message import Change
from datafile_sidecar.core.bus_record import Head, Record


class Member(Protocol):
    """What the bus needs to know of one SDK key. No method may wait for anything but its own disk."""

    def held(self) -> Head | None:
        """Return the head of the datafile on the volume, None where there is none that upstream served."""

    async def body(self, sha256: str) -> bytes | None:
        """Return the bytes with this digest, None where they are neither on the volume nor about to be."""

    def change(self, head: Head) -> Change | None:
        """Return the change that led to the datafile with this head, None where it is not known."""

    def wants(self, head: Head) -> bool:
        """Return whether to hand over the datafile with this head."""

    def receive(self, record: Record | None) -> None:
        """Receive a datafile that is wanted. None means that the bus has said all that it has."""

    def fetch_soon(self) -> None:
        """Ask upstream for what the bus announced and could not bring."""
