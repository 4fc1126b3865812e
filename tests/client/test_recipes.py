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


@pytest.mark.parametrize(("name", "count"), [("test_checkout.py", 4), ("test_with_files.py", 1)])
def test_an_apps_own_test(name: str, count: int, recipes: Path, directory: Path) -> None:
    """A user who copies the tests sees them pass."""
    plugins = ["-p", "no:cacheprovider", "-p", "pytest_datafile_client"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *plugins, name],
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
    assert f"{count} passed" in done.stdout


WEB = {
    "fastapi_app.py": ("fastapi", ["-m", "uvicorn", "--port", "{port}", "--workers", "2", "fastapi_app:app"]),
    "flask_app.py": ("flask", ["-m", "gunicorn", "--bind", "127.0.0.1:{port}", "--workers", "2", "flask_app:app"]),
    "gunicorn.conf.py": ("flask", ["-m", "gunicorn", "--bind", "127.0.0.1:{port}", "flask_app:app"]),
    "openfeature_app.py": (
        "flask",
        ["-m", "gunicorn", "--bind", "127.0.0.1:{port}", "--workers", "2", "--preload", "openfeature_app:app"],
    ),
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
    if name != "gunicorn.conf.py":
        (recipes / "gunicorn.conf.py").unlink()
    port = free_port()
    with up([argument.format(port=port) for argument in arguments], recipes, directory):
        flips(port, directory)


@pytest.mark.system
@pytest.mark.parametrize("name", [name for name in WEB if name != "uwsgi.ini"])
def test_an_outage_at_start_kills_nothing(name: str, recipes: Path, directory: Path) -> None:
    """A user's pod that starts without a datafile lives, takes no traffic, and decides as soon as there is one."""
    module, arguments = WEB[name]
    need(module)
    (directory / "KEY1.json").unlink()
    arguments = [*arguments, "--timeout", "2"] if "gunicorn" in arguments else arguments
    port = free_port()
    with up([argument.format(port=port) for argument in arguments], recipes, directory):
        wait_until(lambda: answer(port) == 503, 30)
        ends_at = time.monotonic() + 6  # three times as long as gunicorn waits for a worker that says nothing
        while time.monotonic() < ends_at:
            assert answer(port) == 503
            time.sleep(0.2)
        publish(directory, 1)
        wait_until(lambda: [answer(port) for _ in range(10)] == [200] * 10, 10)
        flips(port, directory)


def answer(port: int) -> int | None:
    """Ask the readiness endpoint of a recipe; None while nothing listens."""
    try:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
            connection.request("GET", "/readyz")
            return connection.getresponse().status
    except OSError:
        return None


def test_a_probe_without_http(recipes: Path, directory: Path, tmp_path: Path) -> None:
    """A user's worker without HTTP is ready once it can decide, and lives without a datafile."""
    (directory / "KEY1.json").unlink()
    ready = tmp_path / "ready"
    with up(["worker.py"], recipes, directory, READY_FILE=str(ready)):
        time.sleep(2)
        assert not ready.exists()
        publish(directory, 1)
        wait_until(ready.exists, 10)


def test_the_changes(recipes: Path, directory: Path) -> None:
    """A user who copies the callback reads which flags are new."""
    assert run("changes.py", recipes, directory) == "added ['checkout'] changed []\n"


@pytest.mark.system
def test_gevent(recipes: Path, directory: Path) -> None:
    """A user of gevent decides in greenlets."""
    need("gevent")
    assert run("gevent_script.py", recipes, directory) == "[True, True, True]\n"


@pytest.mark.system
def test_the_recipes_pass_a_strict_type_check(recipes: Path, directory: Path) -> None:
    """A user whose project is checked by `mypy --strict` adds no `type: ignore` for our names."""
    need("fastapi")
    need("basedpyright")
    names = ["script.py", "options.py", "changes.py", "worker.py", "fastapi_app.py", "flask_app.py", "test_checkout.py"]
    names += ["openfeature_app.py", "test_with_files.py"]
    readme = (DOCUMENT.parents[1] / "README.md").read_text()
    (recipes / "readme.py").write_text(re.findall(r"```python\n(.*?)```", readme, re.DOTALL)[0])
    (recipes / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict"}')
    for checker in (["mypy", "--strict", "--cache-dir", os.devnull], ["basedpyright", "--pythonpath", sys.executable]):
        command = [sys.executable, "-m", *checker, *names, "readme.py"]
        done = subprocess.run(command, cwd=recipes, capture_output=True, text=True, timeout=100, check=False)
        assert done.returncode == 0, done.stdout


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
    named = {
        "script.py",
        "options.py",
        "test_checkout.py",
        "test_with_files.py",
        "flags/apps.py",
        "flags/views.py",
        "celery_app.py",
    }
    named |= {"gevent_script.py", "worker.py", "changes.py"}
    assert set(BLOCKS) == named | set(WEB)
    assert DOCUMENT.read_text().count("```") == 2 * len(BLOCKS)
