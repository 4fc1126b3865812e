"""The bus: a Redis or Valkey by which sidecars share datafiles and polls. A cache, never the truth.

Lose it, wipe it, hang it or fill it with garbage, and nothing is lost but speed. Nobody waits for it: what comes from it is
handed to the members, one for each SDK key, and what they have to tell is done here, a moment later.
"""

from datafile_sidecar.bus.connection import ANSWER_WITHIN_S, Bus
from datafile_sidecar.bus.errors import BusError, shown
from datafile_sidecar.bus.poll_lease import Claim
from datafile_sidecar.bus.records import Member

__all__ = ["ANSWER_WITHIN_S", "Bus", "BusError", "Claim", "Member", "shown"]
