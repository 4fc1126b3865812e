"""The code of docs/recipes.md, run as it stands."""

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.client.helpers import publish, wait_until
from tests.client.servers import free_port, need

DOCUMENT = Path(__file__).parents[2] / "docs" / "recipes.md"
BLOCKS = dict(re.findall(r'^```\w+ title="([^"]+)"\n(.*?)^```$', DOCUMENT.read_text(), re.MULTILINE | re.DOTALL))


@pytest.fixture
def recipes(tmp_path: Path, directory: Path) -> Path:
    """Write all recipes into a folder, and publish a first datafile."""
    folder = tmp_path / "app"
    for name, code in BLOCKS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(code)
    publish(directory, 1)
    return folder


def environment(directory: Path, **more: str) -> dict[str, str]:
    """Return the environment that the manifests would give the app."""
    return {**os.environ, "DATAFILE_SDK_KEYS": "KEY1", "DATAFILE_DIR": str(directory), **more}


@contextlib.contextmanager
def up(arguments: list[str], recipes: Path, directory: Path, **more: str) -> Iterator[None]:
    """Run a program in the recipes' folder; it must end by SIGTERM in time."""
    with subprocess.Popen([sys.executable, *arguments], cwd=recipes, env=environment(directory, **more)) as server:
        try:
            yield
            server.send_signal(signal.SIGTERM)
            server.wait(10)
        finally:
            if server.poll() is None:
                server.kill()


def is_on(port: int) -> bool | None:
    """Ask the served recipe whether checkout is on; None while it is not up."""
    try:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
            connection.request("GET", "/checkout/user-1")
            return bool(json.loads(connection.getresponse().read())["enabled"])
    except (OSError, http.client.HTTPException, ValueError, KeyError):
        return None


def flips(port: int, directory: Path) -> None:
    """See the flag flip in every worker."""
    wait_until(lambda: is_on(port) is True, 30)
    publish(directory, 2)
    wait_until(lambda: [is_on(port) for _ in range(10)] == [False] * 10, 10)


def run(name: str, recipes: Path, directory: Path) -> str:
    """Run a recipe to its end and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "error", name],
        cwd=recipes,
        env=environment(directory),
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_script(recipes: Path, directory: Path) -> None:
    """A user who copies the script gets a decision."""
    assert run("script.py", recipes, directory) == "True\n"


def test_the_options(recipes: Path, directory: Path) -> None:
    """A user who copies the options gets them."""
    assert run("options.py", recipes, directory) == "decided checkout\nstale: False\n"


def test_an_apps_own_test(recipes: Path, directory: Path) -> None:
    """A user who copies the test sees it pass."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_checkout.py"],
        cwd=recipes,
        env={
            **os.environ,
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        },  # the recipe needs none, and they take long to import
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout


WEB = {
    "fastapi_app.py": ("fastapi", ["-m", "uvicorn", "--port", "{port}", "--workers", "2", "fastapi_app:app"]),
    "flask_app.py": ("flask", ["-m", "gunicorn", "--bind", "127.0.0.1:{port}", "--workers", "2", "flask_app:app"]),
    "gunicorn.conf.py": ("flask", ["-m", "gunicorn", "--bind", "127.0.0.1:{port}", "flask_app:app"]),
    "uwsgi.ini": (
        "pyuwsgi",
        ["-c", "import pyuwsgi; pyuwsgi.run()", "--http-socket", "127.0.0.1:{port}", "--pp", ".", "--ini", "uwsgi.ini"],
    ),
}


@pytest.mark.system
@pytest.mark.parametrize("name", WEB)
def test_a_served_recipe(name: str, recipes: Path, directory: Path) -> None:
    """A user who copies this recipe sees a flag flip in every worker."""
    module, arguments = WEB[name]
    need(module)
    if name == "flask_app.py":
        (recipes / "gunicorn.conf.py").unlink()
    port = free_port()
    with up([argument.format(port=port) for argument in arguments], recipes, directory):
        flips(port, directory)


SETTINGS = """
SECRET_KEY = "test"
DEBUG = True
ALLOWED_HOSTS = ["127.0.0.1"]
INSTALLED_APPS = ["flags.apps.FlagsConfig"]
ROOT_URLCONF = "project"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
"""
URLS = """
from django.urls import path
from flags.views import checkout
urlpatterns = [path("checkout/<user_id>", checkout)]
"""


@pytest.mark.system
def test_django(recipes: Path, directory: Path) -> None:
    """A user of Django sees a flag flip, and no command waits for a datafile."""
    need("django")
    (recipes / "settings.py").write_text(SETTINGS)
    (recipes / "project.py").write_text(URLS)
    manage = ["-m", "django", "{}", "--settings", "settings", "--pythonpath", "."]
    (directory / "KEY1.json").unlink()
    started = time.monotonic()
    subprocess.run(
        [sys.executable, *[word.format("migrate") for word in manage]],
        cwd=recipes,
        env=environment(directory),
        check=True,
        timeout=30,
    )
    assert time.monotonic() - started < 10
    port = free_port()
    with up([*[word.format("runserver") for word in manage], "--noreload", f"127.0.0.1:{port}"], recipes, directory):
        time.sleep(0.5)
        publish(directory, 1)
        flips(port, directory)


@pytest.mark.system
def test_celery(recipes: Path, directory: Path, broker: str) -> None:
    """A user of Celery sees a flag flip in the pool's processes."""
    need("celery")
    from celery import Celery  # type: ignore[import-not-found,import-untyped,unused-ignore]  # only in the system tests

    worker = ["-m", "celery", "--app", "celery_app", "worker", "--concurrency", "2", "--loglevel", "warning"]
    with up(worker, recipes, directory, BROKER_URL=broker):
        client = Celery(broker=broker, backend=broker)

        def ask() -> object:
            return client.send_task("celery_app.checkout", ("user-1",)).get(timeout=20)

        assert ask() is True
        publish(directory, 2)
        wait_until(lambda: [ask() for _ in range(6)] == [False] * 6, 10)
        client.close()


def test_every_block_is_run() -> None:
    """A user can trust every block: one that no test names would show here."""
    named = {"script.py", "options.py", "test_checkout.py", "flags/apps.py", "flags/views.py", "celery_app.py"}
    assert set(BLOCKS) == named | set(WEB)
    assert DOCUMENT.read_text().count("```") == 2 * len(BLOCKS)
