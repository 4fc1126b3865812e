"""The pytest plugin, in runs of pytest of its own."""

import resource
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from tests.client.servers import need

NEWCOMER = """
    from datafile_client.testing import Flags


    def price(flags: Flags, user: str) -> float:
        return 8.0 if flags.watcher.user(user).decide("sale").enabled else 10.0


    def test_the_sale_is_off(flags: Flags) -> None:
        assert price(flags, "u1") == 10.0


    def test_the_sale_is_on_for_one_user(flags: Flags) -> None:
        flags.set("sale", user="u1")
        assert [price(flags, "u1"), price(flags, "u2")] == [8.0, 10.0]
"""
PLUGIN = ("-p", "pytest_datafile_client")


def run(folder: Path, *options: str, autoload: bool = False, **files: str) -> str:
    """Run pytest on these files, in a folder of their own, and return what it printed; all tests must pass."""
    folder.mkdir(exist_ok=True)
    for name, code in files.items():
        (folder / f"{name}.py").write_text(textwrap.dedent(code))
    # pytest-asyncio wants a setting that pytest does not know without it.
    warnings = ("-W", "error", "-W", "ignore:The configuration option")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *warnings, *options, "."]
    environment = {"PATH": str(Path(sys.executable).parent)} | (
        {} if autoload else {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    )
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_newcomers_tests_pass(tmp_path: Path) -> None:
    """A user who has just installed the package writes fifteen lines of tests and needs no set-up: pytest finds the plugin."""
    assert len(textwrap.dedent(NEWCOMER).strip().splitlines()) <= 15
    assert "2 passed" in run(tmp_path, autoload=True, test_sale=NEWCOMER)


def test_loading_the_plugin_loads_no_sdk(tmp_path: Path) -> None:
    """A user whose tests have nothing to do with flags does not wait for the SDK to be imported."""
    code = """
        import sys

        def test_what_is_loaded():
            loaded = {name.partition(".")[0] for name in sys.modules}
            assert "pytest_datafile_client" in loaded
            assert not loaded & {"optimizely", "watchfiles", "openfeature", "datafile_client"}
    """
    assert "1 passed" in run(tmp_path, autoload=True, test_modules=code)


def test_the_fixture_can_have_another_name(tmp_path: Path) -> None:
    """A user whose project has a fixture `flags` keeps it."""
    code = """
        import pytest

        @pytest.fixture
        def flags():
            return "mine"

        def test_both(flags, optimizely_flags):
            optimizely_flags.set("sale")
            assert flags == "mine"
            assert optimizely_flags.watcher.user("u1").decide("sale").enabled
    """
    options = (*PLUGIN, "-o", "datafile_client_fixture=optimizely_flags")
    assert "1 passed" in run(tmp_path, *options, test_names=code)
    listed = run(tmp_path, *options, "--fixtures")
    assert "optimizely_flags" in listed
    assert "Feature flags for this test, in memory" in listed


def test_each_test_has_flags_of_its_own(tmp_path: Path) -> None:
    """A user's tests don't depend on their order, and each one's watcher is stopped."""
    code = """
        watchers = []

        def test_one(flags):
            flags.set("sale")
            watchers.append(flags.watcher)

        def test_two(flags):
            assert not watchers[0].ready
            assert not flags.watcher.user("u1").decide("sale").enabled
    """
    assert "2 passed" in run(tmp_path, *PLUGIN, test_order=code)


def cpu_seconds(folder: Path, **files: Any) -> float:
    """Return the processor time of a run: unlike its duration, it does not depend on what else this machine does."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run(folder, *PLUGIN, **files)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def test_flags_cost_little_time(tmp_path: Path) -> None:
    """A user's first file costs less than a second more than pytest itself, a hundred such tests less than five."""
    nothing = min(cpu_seconds(tmp_path / "nothing", test_nothing="def test_nothing(): pass") for _ in range(2))
    # On this machine pytest alone takes some 0.4 s; a slower one has as many times as long for the rest.
    scale = max(1.0, nothing / 0.4)
    assert min(cpu_seconds(tmp_path / "first", test_sale=NEWCOMER) for _ in range(2)) - nothing < scale
    hundred = {f"test_sale_{number}": NEWCOMER for number in range(50)}
    assert cpu_seconds(tmp_path / "hundred", **hundred) - nothing < 5 * scale


def test_it_works_beside_xdist_and_asyncio(tmp_path: Path) -> None:
    """A user runs tests in several processes and in event loops."""
    code = """
        import pytest

        @pytest.mark.parametrize("number", range(8))
        async def test_in_a_loop(flags, number):
            flags.set(f"sale-{number}")
            async with flags.watcher as watcher:
                assert list(watcher.user("u1").decide_all()) == [f"sale-{number}"]
    """
    assert "8 passed" in run(tmp_path, "-n", "2", "-o", "asyncio_mode=auto", autoload=True, test_loop=code)


@pytest.mark.system
def test_it_works_with_frozen_clocks_and_without_sockets(tmp_path: Path) -> None:
    """A user freezes time or forbids sockets, and the flags don't notice."""
    for name in ("freezegun", "time_machine", "pytest_socket"):
        need(name)
    code = """
        import datetime, socket, time
        import freezegun, pytest, pytest_socket, time_machine

        def check(flags):
            flags.set("sale", user="u1")
            flags.watcher.on_update(lambda _: None)
            flags.watcher.start()
            assert flags.watcher.user("u1").decide("sale").enabled
            assert flags.watcher.wait_for_revision(2, timeout=1)
            assert not flags.watcher.status().stale
            flags.watcher.stop()

        @freezegun.freeze_time("2020-01-01", tick=False)
        def test_freezegun(flags):
            check(flags)
            assert flags.watcher.status().loaded_at.year == 2020

        @time_machine.travel(datetime.datetime(2030, 1, 1), tick=False)
        def test_time_machine(flags):
            check(flags)
            assert flags.watcher.status().loaded_at.year == 2030

        def test_no_sockets(flags):
            with pytest.warns(UserWarning), pytest.raises(pytest_socket.SocketBlockedError):
                socket.socket()
            check(flags)
    """
    assert "3 passed" in run(tmp_path, *PLUGIN, "-p", "pytest_socket", "--disable-socket", test_clocks=code)
