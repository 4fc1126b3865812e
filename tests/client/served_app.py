"""The apps that the server tests serve: each request or task tracks one event and answers with its process and revision.

Started at import, in whatever process imports it: that is what preloading servers do.
"""

import json
import os
import time
from collections.abc import Callable, Iterable
from typing import Any

if os.environ.get("PATCHED_BY") == "gevent":  # for servers that do not patch by themselves before the app is imported
    from gevent import monkey  # type: ignore[import-not-found,import-untyped,unused-ignore]  # only in the system tests

    monkey.patch_all()

from datafile_client import OptimizelyWatcher
from tests.client.helpers import patient_options

watcher = OptimizelyWatcher(optimizely_options=patient_options(int(os.environ["RECEIVER_PORT"])), rescan_interval_s=0.5)
watcher.start(timeout=10)
watcher.optimizely.get_optimizely_config()  # an app may well ask for something at import


def serve(user: str) -> dict[str, int]:
    """Track one event, if there is a user, and return the process id and the revision."""
    optimizely = watcher.optimizely
    if user:
        optimizely.track("bought", user)
    else:
        time.sleep(0.02)  # busy enough for the next request to go to another worker
    return {"pid": os.getpid(), "revision": watcher.revision}


def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Serve over WSGI; the query string is the user."""
    answer = json.dumps(serve(environ["QUERY_STRING"])).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(answer)))])
    return [answer]


async def asgi(scope: dict[str, Any], receive: Callable[..., Any], send: Callable[..., Any]) -> None:
    """Serve over ASGI; stop in the lifespan, since uvicorn ends by the signal's default, without any exit handler."""
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        watcher.stop()
        await send({"type": "lifespan.shutdown.complete"})
    else:
        answer = json.dumps(serve(scope["query_string"].decode())).encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": answer})


if os.environ.get("BROKER"):
    from celery import Celery  # type: ignore[import-not-found,import-untyped,unused-ignore]  # only in the system tests

    celery = Celery("serving", broker=os.environ["BROKER"], backend=os.environ["BROKER"])
    celery.task(name="serve")(serve)
