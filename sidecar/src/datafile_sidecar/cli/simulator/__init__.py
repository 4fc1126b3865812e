"""A simulator of Optimizely: serves datafiles as its CDN and origin do, and posts its signed webhooks.

The tests use the same `Simulator` as the commands `simulate` and `send-webhook`.
"""

from datafile_sidecar.cli.simulator.events import webhook_body
from datafile_sidecar.cli.simulator.server import Simulator

__all__ = ["Simulator", "webhook_body"]
