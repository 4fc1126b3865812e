"""The bus: a Redis or Valkey through which sidecars share datafiles and polls. It is a cache, never the source of truth.

If it is lost, wiped, hung or full of garbage, only speed is lost. No caller waits for it: what it brings is handed to the
members, one for each SDK key, and what members have for other pods is sent a moment later.
"""

from datafile_sidecar.bus.broker import ANSWER_WITHIN_S
from datafile_sidecar.bus.connection import Bus
from datafile_sidecar.bus.errors import BusError, shown
from datafile_sidecar.bus.fleet_membership import FleetMembership, PodReport, Predecessors
from datafile_sidecar.bus.forms import change_between
from datafile_sidecar.bus.member import Member
from datafile_sidecar.bus.poll_lease import Lease

__all__ = [
    "ANSWER_WITHIN_S",
    "Bus",
    "BusError",
    "FleetMembership",
    "Lease",
    "Member",
    "PodReport",
    "Predecessors",
    "change_between",
    "shown",
]
