"""A small shop that asks Optimizely whether to show the new checkout. `gunicorn app:app` serves it, with any number of workers."""

from pathlib import Path
from typing import Any

from flask import Flask, abort

from datafile_client import OptimizelyWatcher

# Read from DATAFILE_DIR, for the SDK key in DATAFILE_SDK_KEYS. Without any datafile, the shop decides by the one that it ships.
watcher = OptimizelyWatcher(fallback=Path(__file__).with_name("fallback.json"))
watcher.start(timeout=2)

app = Flask(__name__)


@app.get("/checkout/<user_id>")
def checkout(user_id: str) -> dict[str, Any]:
    """What this user gets. The instance is taken once: the whole request decides by one revision, also in the middle of a flip."""
    user = watcher.optimizely.create_user_context(user_id)
    if user is None:
        abort(400)
    decision = user.decide("checkout")
    return {"new_checkout": decision.enabled, "text": decision.variables.get("text", "Buy")}


@app.get("/healthz")
def healthz() -> dict[str, Any]:
    """For probes and people: which datafile this worker decides by. Old flags are no reason to be unhealthy."""
    status = watcher.status()
    return {"revision": status.revision, "source": status.source, "last_error": status.last_error}
