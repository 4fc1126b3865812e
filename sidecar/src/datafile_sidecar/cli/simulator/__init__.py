"""A simulator of Optimizely: serves datafiles as its CDN and origin do, and posts its signed webhooks.

The tests use the same `Simulator` as the commands `simulate` and `send-webhook`.
"""

from .events import EventFields, webhook_body
from .server import DatafileRequest, Simulator

__all__ = ["DatafileRequest", "EventFields", "Simulator", "webhook_body"]
