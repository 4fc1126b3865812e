"""The images are built once, from nothing; the pod that lives through an outage runs beside all other tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.container.machine import APP, SIDECAR, Machine, in_parallel, missing_tools
from tests.container.outage import Outage

MEASURED = pytest.StashKey[dict[str, str]]()


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine that has this project's images."""
    if lack := missing_tools():
        pytest.skip(lack)
    with Machine(tmp_path_factory.mktemp("machine")) as machine:
        machine.import_base()
        in_parallel(lambda: machine.build(SIDECAR, "Dockerfile"), lambda: machine.build(APP, "examples/app/Dockerfile"))
        yield machine


@pytest.fixture(scope="session", autouse=True)
def outage(machine: Machine) -> Iterator[Outage]:
    """A pod whose upstream has been out of reach since it was started."""
    with Outage(machine) as outage:
        yield outage


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> dict[str, str]:
    """Figures for a person: what is put here stands at the end of the report."""
    return request.config.stash.setdefault(MEASURED, {})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Read the outage last: its two minutes pass while the others run."""
    here = [item for item in items if item.path.is_relative_to(Path(__file__).parent)]
    for item in here:
        item.add_marker(pytest.mark.system)
        item.add_marker(pytest.mark.timeout(300))
    items.sort(key=lambda item: item.path.name == "test_outage.py")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what was measured."""
    for name, figure in terminalreporter.config.stash.get(MEASURED, {}).items():
        terminalreporter.write_line(f"{name}: {figure}")
