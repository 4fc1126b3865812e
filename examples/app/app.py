"""A small shop that asks Optimizely whether to show the new checkout. `gunicorn app:app` serves it, with any number of workers."""

from pathlib import Path
from typing import Any

from flask import Flask, abort

from datafile_client import OptimizelyWatcher

# Reads the datafile from DATAFILE_DIR, for the SDK key in DATAFILE_SDK_KEYS. Until one is there, the shop uses the fallback.
watcher = OptimizelyWatcher(fallback=Path(__file__).with_name("fallback.json"))
watcher.start(timeout=2)

app = Flask(__name__)


@app.get("/checkout/<user_id>")
def checkout(user_id: str) -> dict[str, Any]:
    """Return what this user sees. `optimizely` is read once, so that the whole request uses one revision."""
    user = watcher.optimizely.create_user_context(user_id)
    if user is None:
        abort(400)
    decision = user.decide("checkout")
    return {"new_checkout": decision.enabled, "text": decision.variables.get("text", "Buy")}


@app.get("/healthz")
def healthz() -> dict[str, Any]:
    """Return which datafile this worker uses. Old flags do not make it unhealthy."""
    status = watcher.status()
    return {"revision": status.revision, "source": status.source, "last_error": status.last_error}
