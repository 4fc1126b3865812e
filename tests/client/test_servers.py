"""Real servers: every worker follows the datafile, and every event arrives exactly once."""

import contextlib
import http.client
import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.client.helpers import Receiver, publish, running, wait_until
from tests.client.servers import free_port, need, served

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

PREFORK = ["--master", "--processes", "2", "--die-on-term", "--need-app", "--module", "tests.client.served_app:wsgi"]
UWSGI = ["-c", "import pyuwsgi; pyuwsgi.run()", "--http-socket", "127.0.0.1:{port}", *PREFORK]
GUNICORN = ["-m", "gunicorn", "--bind", "127.0.0.1:{port}", "--workers", "2", "tests.client.served_app:wsgi"]
UVICORN = ["-m", "uvicorn", "--port", "{port}", "--log-level", "warning", "tests.client.served_app:asgi"]
SERVERS = {
    "gunicorn sync": ("gunicorn", GUNICORN),
    "gunicorn sync preload": ("gunicorn", [*GUNICORN, "--preload"]),
    "gunicorn gthread": ("gunicorn", [*GUNICORN, "--worker-class", "gthread", "--threads", "4"]),
    "gunicorn gthread preload": ("gunicorn", [*GUNICORN, "--worker-class", "gthread", "--threads", "4", "--preload"]),
    "gunicorn gevent": ("gevent", [*GUNICORN, "--worker-class", "gevent"]),
    "gunicorn gevent preload": ("gevent", [*GUNICORN, "--worker-class", "gevent", "--preload"]),
    "uWSGI": ("pyuwsgi", UWSGI),
    "uWSGI threads": ("pyuwsgi", [*UWSGI, "--threads", "4"]),
    "uWSGI lazy-apps": ("pyuwsgi", [*UWSGI, "--lazy-apps"]),
    "uWSGI without a master": ("pyuwsgi", [word for word in UWSGI if word != "--master"]),
    "uWSGI gevent": ("gevent", [*UWSGI, "--gevent", "20", "--gevent-monkey-patch"]),
    "uWSGI with Python's hooks": ("pyuwsgi", [*UWSGI, "--py-call-osafterfork"]),
    "uvicorn": ("uvicorn", UVICORN),
    "uvicorn workers": ("uvicorn", [*UVICORN, "--workers", "2"]),
}

WITHOUT_EXIT_HOOKS = {"uWSGI gevent"}
"""uWSGI runs no exit hooks of Python with greenlets. docs/recipes.md says so, and what to do."""


def ask(port: int, user: str = "") -> dict[str, Any]:
    """Ask the served app once."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        connection.request("GET", f"/?{user}")
        return dict(json.loads(connection.getresponse().read()))


def answers(port: int) -> bool:
    """Tell whether the app is up."""
    try:
        return bool(ask(port))
    except (OSError, http.client.HTTPException, ValueError):
        return False


@pytest.mark.parametrize("server", SERVERS)
def test_every_event_of_every_worker_arrives_once(server: str, directory: Path, tmp_path: Path) -> None:
    """A user of this server gets every event once and new flags in every worker, and does nothing for it."""
    module, arguments = SERVERS[server]
    need(module)
    publish(directory, 1)
    port, log = free_port(), tmp_path / "server.log"
    workers = 1 if server == "uvicorn" else 2
    pids: set[int] = set()
    with Receiver() as receiver:
        with served([argument.format(port=port) for argument in arguments], directory, receiver, log):
            wait_until(lambda: answers(port), 30)

            def meet() -> None:
                met_by = time.monotonic() + 10
                while len(pids) < workers and time.monotonic() < met_by:
                    pids.add(ask(port)["pid"])

            def work(name: int) -> None:
                for number in range(100):
                    ask(port, f"user-{name}-{number}")

            with running([threading.Thread(target=meet) for _ in range(4)]):
                pass
            assert len(pids) == workers

            with running([threading.Thread(target=work, args=(name,)) for name in range(4)]):
                for revision in range(2, 22):
                    publish(directory, revision)
                    time.sleep(0.02)
            swapped = time.monotonic()
            while time.monotonic() - swapped < 5 and {ask(port)["revision"] for _ in range(20)} != {21}:
                time.sleep(0.05)
            assert {ask(port)["revision"] for _ in range(20)} == {21}
        assert set(receiver.users.values()) == {1}
        assert len(receiver.users) == 400 or server in WITHOUT_EXIT_HOOKS
    text = log.read_text()
    assert "Traceback" not in text
    assert "Fatal Python" not in text


@pytest.mark.parametrize("pool", ["prefork", "gevent"])
def test_celery(pool: str, broker: str, directory: Path, tmp_path: Path) -> None:
    """A user of Celery loses and doubles no event: neither with children that leave by os._exit, nor with greenlets."""
    need("celery")
    need("gevent")
    from celery import Celery  # type: ignore[import-not-found,import-untyped,unused-ignore]  # only in the system tests

    publish(directory, 1)
    worker = ["-m", "celery", "--app", "tests.client.served_app:celery", "worker", "--concurrency", "2", "--pool", pool]
    with Receiver() as receiver, served(worker, directory, receiver, tmp_path / "log", BROKER=broker):
        client = Celery(broker=broker, backend=broker)
        results = [client.send_task("serve", (f"user-{number}",)) for number in range(100)]
        for revision in range(2, 12):
            publish(directory, revision)
        results += [client.send_task("serve", (f"late-{number}",)) for number in range(100)]
        pids = {result.get(timeout=30)["pid"] for result in results}
        wait_until(lambda: client.send_task("serve", ("",)).get(timeout=10)["revision"] == 11)
        client.close()
    assert len(pids) == (2 if pool == "prefork" else 1)
    assert set(receiver.users.values()) == {1}
    assert len(receiver.users) == 200
