"""A stand-in for Optimizely: serves datafiles as its CDN and its origin do, and posts its signed webhook.

`simulate` and `send_webhook` are commands for local work. The tests' fake Optimizely is the same `Simulator`, so what a
person tries by hand is what the tests prove.
"""

from .commands import send_webhook, simulate
from .events import EventFields, webhook_body
from .server import DatafileRequest, Simulator

__all__ = ["DatafileRequest", "EventFields", "send_webhook", "simulate", "Simulator", "webhook_body"]
